"""Transforms of batches: from a configuration's names, or from functions, to one pipeline of NumPy arrays.

Rules: images are [N, H, W, C] here. What a user's function draws, it draws from generators that (seed, epoch, rows)
seed, and the states of the user's own generators are left as they were. Where augmentation is replayed, such a
function gets the rows one by one, each as a batch, so that what a row becomes does not depend on the rows beside it.
"""

from __future__ import annotations

import functools
import inspect
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from kdhooks.config.model import Named
from kdhooks.datasets.draws import Draws
from kdhooks.datasets.options import call_with_options, check_factory
from kdhooks.errors import UsageError
from kdhooks_tf.image_transforms import TRANSFORMS, Array, Transform

__all__ = ["TRANSFORMS", "Pipeline", "Transform", "own_randomness", "register_transform"]


def register_transform(name: str, factory: Callable[..., Any], *, replace: bool = False) -> None:
    """Give configurations a transform of your own.

    Args:
        name: case-insensitive, as in ``transform: {brighten: {by: 0.1}}``.
        factory: takes the options by keyword and returns a function of a NumPy batch [N, ...] (images are
            [N, H, W, C]), or of a batch and a ``numpy.random.Generator`` that (seed, epoch, rows) decide; with
            ``replays`` the batch is one row.
        replace: allow a name that exists already.

    Raises:
        UsageError: the name is taken, or the factory cannot take options by keyword.
    """
    check_factory("transform", name, factory)
    TRANSFORMS.add(name, _adapted(name, factory), replace=replace)


def _adapted(name: str, factory: Callable[..., Any]) -> Callable[..., Transform]:
    @functools.wraps(factory)  # keeps the signature that options are checked against
    def make(**options: Any) -> Transform:
        return _with_generator(name, factory(**options))

    return make


def _with_generator(name: str, function: Any) -> Transform:
    """A user's function of (batch) or (batch, generator) as a `Transform`."""
    if not callable(function):
        raise UsageError(f"the transform {name!r} must be a function of a batch, not {function!r}")
    try:
        inspect.signature(function).bind(None, None)
        takes_generator = True
    except (TypeError, ValueError):  # one argument, or a built-in function that hides its signature
        takes_generator = False

    def call(batch: Array, seed: int) -> Array:
        if takes_generator:
            return np.asarray(function(batch, np.random.default_rng(seed)))
        with own_randomness(seed):
            return np.asarray(function(batch))

    def transform(batch: Array, draws: Draws) -> Array:
        if not draws.by_row:
            return call(batch, draws.generator_seed())
        seeds = draws.generator_seeds()
        return np.concatenate([call(batch[row : row + 1], seed) for row, seed in enumerate(seeds)])

    return transform


@contextmanager
def own_randomness(seed: int) -> Iterator[None]:
    """Within the block Python's and NumPy's generators are seeded; afterwards they are as before."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


class Pipeline:
    """Transforms one after the other.

    Images that are still uint8 become float32 from 0 to 1 first, unless the list has ``ToTensor`` itself.

    Args:
        steps: `Named` of the table `TRANSFORMS`, or functions of (batch) or (batch, generator).

    Raises:
        UsageError: an unknown name or option.

    >>> flip = Pipeline([Named("RandomHorizontalFlip", {"p": 1.0})])
    >>> flip(np.array([[[[0], [255]]]], dtype=np.uint8), Draws(seed=0, epoch=0, rows=[7])).ravel().tolist()
    [1.0, 0.0]
    """

    def __init__(self, steps: Sequence[Named | Callable[..., Any]] = ()) -> None:
        self.steps = tuple(_build(step) for step in steps)
        self._converts = any(isinstance(step, Named) and TRANSFORMS.name(step.name) == "ToTensor" for step in steps)

    def __call__(self, batch: Array, draws: Draws) -> Array:
        """The batch [N, ...] after all steps."""
        if batch.dtype == np.uint8 and batch.ndim == 4 and not self._converts:
            batch = batch.astype(np.float32) / np.float32(255)
        for step in self.steps:
            batch = step(batch, draws)
        return batch


def _build(step: Named | Callable[..., Any]) -> Transform:
    if not isinstance(step, Named):
        return _with_generator(getattr(step, "__name__", type(step).__name__), step)
    name = TRANSFORMS.name(step.name) or step.name
    made: Transform = call_with_options("transform", name, TRANSFORMS[step.name], step.options)
    return made
