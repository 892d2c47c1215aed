"""Matchers by name, made of the parts that `kdhooks.pairs.matching` finds for two shapes.

What a user registers is called with both shapes and returns a Keras layer, or a function, of the student's feature.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdhooks.errors import MatcherError
from kdhooks.pairs import matching
from kdhooks.pairs.matching import CHANNELS_LAST, MATCHERS, Shape, check_rows, plan_matcher
from kdhooks.registry import REGISTERED_MATCHERS
from kdhooks_tf.matchers import modules as parts
from kdhooks_tf.matchers.modules import Matcher, Part, Projection, Tensor


def build_matcher(name: str, student: Shape, teacher: Shape, *, seed: int = 0, dtype: str = "float32") -> Matcher:
    """A matcher for features of two shapes.

    Args:
        name: in `kdhooks.pairs.matching.MATCHERS`, or registered.
        student: the shape of the student's feature, [N, ...]; None where a size is not known before the step.
        teacher: that of the teacher's.
        seed: of the parameters.
        dtype: of the parameters.

    Raises:
        MatcherError: it fits no such shapes.

    >>> matcher = build_matcher("auto", [2, 4, 4, 8], [2, 17, 6])
    >>> [list(side.shape) for side in matcher(tf.zeros([2, 4, 4, 8]), tf.zeros([2, 17, 6]))]
    [[2, 16, 6], [2, 16, 6]]
    """
    with tf.init_scope():
        if name not in MATCHERS and name in REGISTERED_MATCHERS:
            check_rows(student, teacher)
            return _registered(name, student, teacher, seed, dtype)
        plan = plan_matcher(name, student, teacher, CHANNELS_LAST)
        return Matcher(*([_made(part, seed, dtype) for part in side] for side in (plan.student, plan.teacher)))


def _made(part: matching.Part, seed: int, dtype: str) -> Part:
    if part.name == "project":
        return Projection(part.sizes, seed, dtype)
    if part.name == "drop_tokens":
        return parts.without_first_tokens(part.count)
    return _PARTS[part.name]


_PARTS: dict[str, Part] = {
    "resize": parts.resized,
    "pool_tokens": parts.pooled_tokens,
    "mean_of_space": parts.mean_of_space,
    "mean_of_tokens": parts.mean_of_tokens,
    "as_tokens": parts.as_tokens,
    "as_grid": parts.as_grid,
    "on_grid": parts.on_grid_of,
    "flatten": parts.flattened,
    "shape_as": parts.shaped_like,
}


class UserMatcher(Matcher):
    """A registered layer or function of the student's feature.

    Args:
        function: what was registered made it.
    """

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def __call__(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """What the layer makes of the student's feature, and the teacher's as it is."""
        return self.function(student), teacher

    @property
    def variables(self) -> list[Any]:
        """Those of the layer."""
        return list(getattr(self.function, "variables", ()))

    @property
    def trainable_variables(self) -> list[Any]:
        """Those of the layer that learn."""
        return list(getattr(self.function, "trainable_variables", ()))

    @property
    def is_identity(self) -> bool:
        """Never; the layer is called."""
        return False


def _registered(name: str, student: Shape, teacher: Shape, seed: int, dtype: str) -> Matcher:
    with _own_draws(seed):
        made: Any = REGISTERED_MATCHERS[name](list(student), list(teacher))
        if not callable(made):
            kind = type(made).__name__
            message = f"the registered matcher {name!r} must return a Keras layer or a function, not {kind}"
            raise MatcherError(message)
        if isinstance(made, keras.layers.Layer) and not made.built:
            made(tf.zeros([1 if size is None else size for size in student], dtype))  # its weights are drawn here
    return UserMatcher(made)


@contextmanager
def _own_draws(seed: int) -> Iterator[None]:
    """Python's and NumPy's generators, of which Keras draws the seeds of a layer, are afterwards as they were."""
    before, numbers = random.getstate(), np.random.get_state(legacy=True)
    random.seed(seed)
    np.random.seed(seed)
    try:
        yield
    finally:
        random.setstate(before)
        np.random.set_state(numbers)
