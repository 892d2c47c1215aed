"""What one pair of layers is compared with: matchers and a loss, made for the shapes of both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import tensorflow as tf

from kdhooks.criterion import Step
from kdhooks.errors import MatcherError, UsageError
from kdhooks.pairs.modules import SEED, ComparedPair, Given, seed_of
from kdhooks.registry import REGISTERED_LOSSES
from kdhooks_tf.feature_masks import MASKS, blanked
from kdhooks_tf.losses import build_feature_loss
from kdhooks_tf.matcher_training import outside_of_graphs
from kdhooks_tf.matchers import Matcher, build_matcher

__all__ = ["SEED", "PairModules", "parameter_dtype"]

Tensor = Any
Shape = list[int | None]


def parameter_dtype(feature: Tensor) -> str:
    """float32, or float64 for a float64 feature."""
    return "float64" if feature.dtype == tf.float64 else "float32"


class PairModules(ComparedPair):
    """A pair's matchers, one for each layer, and its loss.

    Args:
        index: of the pair; seeds the parameters.
        matcher: by name; ``none`` for a loss that needs none.
        loss: name and options.
        student: the shape of each of the student's features; None where a size is not known before the step.
        teacher: the shape of each of the teacher's.
        dtype: of the matcher's parameters.

    Attributes:
        matchers: one for each layer, or an empty list.
        owner: the loss, where it owns parameters.

    Raises:
        MatcherError: the matcher fits no such shapes.
    """

    masks = MASKS

    def __init__(
        self,
        index: int,
        matcher: str,
        loss: tuple[str, Mapping[str, Any]],
        student: Sequence[Shape],
        teacher: Sequence[Shape],
        dtype: str,
    ) -> None:
        self.shapes, self.dtype = (list(student), list(teacher)), dtype
        self.several = len(student) > 1 or len(teacher) > 1
        self.matchers: list[Matcher] = []
        compared: Any = self.shapes
        with outside_of_graphs():
            if matcher != "none":
                self.matchers = [
                    build_matcher(matcher, *shapes, seed=seed_of(index, level), dtype=dtype)
                    for level, shapes in enumerate(zip(*self.shapes, strict=True))
                ]
                matched = [self._compared(*one) for one in zip(self.matchers, *self.shapes, strict=True)]
                compared = list(zip(*matched, strict=True))
            sides = [list(side) if self.several else side[0] for side in compared]
            made: Any = build_feature_loss(loss[0], *sides, **loss[1])
        self.owner: Any = made if hasattr(made, "trainable_variables") else None
        self.take_loss(loss[0], made, made)
        self._unweighable = loss[0] in REGISTERED_LOSSES and "sample_weight" not in self._taken

    def _compared(self, matcher: Matcher, student: Shape, teacher: Shape) -> tuple[Shape, Shape]:
        """The shapes that leave a matcher."""
        if matcher.is_identity:
            return student, teacher
        one, other = (
            tf.zeros([1, *(2 if size is None else size for size in shape[1:])], self.dtype)
            for shape in (student, teacher)
        )
        left, right = matcher(one, other)
        if left.shape != right.shape:
            raise MatcherError(f"it made {[student[0], *left.shape[1:]]} of the student's feature")
        sizes: Shape = [teacher[0], *right.shape[1:]]
        if len(sizes) == len(teacher):
            sizes = [None if given is None else size for size, given in zip(sizes, teacher, strict=True)]
        return sizes, list(sizes)

    @property
    def variables(self) -> list[Any]:
        """All that a resumed run needs."""
        owned = [] if self.owner is None else list(self.owner.variables)
        return [variable for matcher in self.matchers for variable in matcher.variables] + owned

    @property
    def trainable_variables(self) -> list[Any]:
        """Those that learn."""
        owned = [] if self.owner is None else list(self.owner.trainable_variables)
        return [variable for matcher in self.matchers for variable in matcher.trainable_variables] + owned

    def __call__(self, students: Sequence[Tensor], teachers: Sequence[Tensor], step: Step, given: Given) -> Tensor:
        """The loss of the features of both sides, one for each layer."""
        if self._unweighable and step.sample_weight is not None:
            name = self._kind
            raise UsageError(f"the loss {name!r} takes no sample_weight: give it such an argument, or none here")
        return self.compared(students, teachers, step, given)

    def matched(self, level: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The features of one layer of both sides behind its matcher, where there is one, of one dtype."""
        if self.matchers and not self.matchers[level].is_identity:
            student, teacher = self.matchers[level](student, teacher)
        if student.dtype != teacher.dtype:
            dtype = student.dtype if student.dtype.size > teacher.dtype.size else teacher.dtype
            if student.dtype.size == teacher.dtype.size:  # float16 and bfloat16
                dtype = tf.float32
            student, teacher = tf.cast(student, dtype), tf.cast(teacher, dtype)
        return student, teacher

    def with_heads(self, feature: Tensor) -> Tensor:
        """Attention [N, T, T, heads], for losses that own nothing which was made for [N, heads, T, T]."""
        return feature if self.owner is not None else tf.transpose(feature, [0, 2, 3, 1])

    def blanked(self, feature: Tensor, mask: Tensor) -> Tensor:
        """A feature with zeros at the positions that don't count."""
        return blanked(feature, mask)
