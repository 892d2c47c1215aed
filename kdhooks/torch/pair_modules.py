"""What one pair of layers is compared with: matchers and a loss, made for the shapes of both sides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.criterion import Step
from kdhooks.pairs.modules import SEED, ComparedPair, Given, seed_of
from kdhooks.torch.feature_masks import MASKS, blanked
from kdhooks.torch.losses import build_feature_loss
from kdhooks.torch.matchers import Matcher, MatcherError, build_matcher

__all__ = ["SEED", "PairModules", "parameter_dtype"]

Shape = Sequence[int]


def parameter_dtype(feature: Tensor) -> torch.dtype:
    """float32, or float64 for a float64 feature."""
    return torch.promote_types(feature.dtype, torch.float32)


class PairModules(ComparedPair, nn.Module):
    """A pair's matchers, one for each layer, and its loss.

    Args:
        index: of the pair; seeds the parameters.
        matcher: by name; ``none`` for a loss that needs none.
        loss: name and options.
        student: the shape of each of the student's features.
        teacher: the shape of each of the teacher's.
        dtype: of the matcher's parameters.
        device: where they are.

    Raises:
        MatcherError: the matcher fits no such shapes.
    """

    masks = MASKS

    def __init__(
        self,
        index: int,
        matcher: str,
        loss: tuple[str, Mapping[str, Any]],
        student: list[Shape],
        teacher: list[Shape],
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__()
        self.shapes = [list(shape) for shape in student], [list(shape) for shape in teacher]
        self.dtype = dtype
        self.several = len(student) > 1 or len(teacher) > 1
        self.matcher: Matcher | None = None
        self.matchers: nn.ModuleList | None = None
        compared: Any = self.shapes
        if matcher != "none":
            found = [
                build_matcher(matcher, *shapes, seed=seed_of(index, level), dtype=dtype, device=device)
                for level, shapes in enumerate(zip(*self.shapes, strict=True))
            ]
            matched = [self._compared(*one, device) for one in zip(found, *self.shapes, strict=True)]
            compared = list(zip(*matched, strict=True))
            if self.several:
                self.matchers = nn.ModuleList(found)
            else:
                self.matcher = found[0]
        sides = [list(side) if self.several else side[0] for side in compared]
        made: Any = build_feature_loss(loss[0], *sides, **loss[1])
        self.owner = made.to(device) if isinstance(made, nn.Module) else None
        self.take_loss(loss[0], made, made.forward if isinstance(made, nn.Module) else made)

    def _compared(self, matcher: Matcher, student: Shape, teacher: Shape, device: torch.device) -> tuple[Shape, Shape]:
        """The shapes that leave a matcher."""
        if matcher.is_identity:
            return student, teacher
        with torch.no_grad():
            one, other = (torch.zeros(shape, dtype=self.dtype, device=device) for shape in (student, teacher))
            left, right = matcher(one, other)
        if left.shape != right.shape:
            raise MatcherError(f"it made {list(left.shape)} of the student's feature")
        return list(left.shape), list(right.shape)

    def forward(self, students: Sequence[Tensor], teachers: Sequence[Tensor], step: Step, given: Given) -> Tensor:
        """The loss of the features of both sides, one for each layer."""
        value: Tensor = self.compared(students, teachers, step, given)
        return value

    def matched(self, level: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The features of one layer of both sides behind its matcher, where there is one, of one dtype."""
        matcher: Any = self.matcher if self.matchers is None else self.matchers[level]
        if matcher is not None and not matcher.is_identity:
            student, teacher = matcher(student, teacher)
        if student.dtype != teacher.dtype:
            dtype = torch.promote_types(student.dtype, teacher.dtype)
            student, teacher = student.to(dtype), teacher.to(dtype)
        return student, teacher

    def blanked(self, feature: Tensor, mask: Tensor) -> Tensor:
        """A feature with zeros at the positions that don't count."""
        return blanked(feature, mask)
