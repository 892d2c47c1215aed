"""Weights and temperatures in a step that may stand in a graph, which runs many times and is traced once.

Rules: in eager mode a weight is a Python number and a term of weight 0 is never computed. In a graph a weight that
changes is a tensor, a function of the clock's variable, so nothing is traced again; its term is computed in a branch
of `tf.cond`, so that what has weight 0 costs nothing and spoils nothing. Only what a graph can express may stand
there: a schedule that is a Python function would be frozen at its first value, and is refused.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from kdhooks.errors import UsageError
from kdhooks.schedules import Piecewise, Ramp, constant_value

Tensor = Any
Schedule = Callable[[int], float]

PRESENT = "_kdhooks_present"
"""An attribute of a component that is not computed at every step of a graph: whether it was."""

_WHOLE = "_kdhooks_without_branch"

_branches = threading.local()  # replicas of a distribution strategy trace in threads of their own


def scheduled(schedule: Schedule) -> Callable[[Any], Any]:
    """A schedule of `kdhooks.schedules` that also takes the step of a graph.

    Returns:
        A function: of an integer the schedule's number; of a tensor a Python number where it is the same at every
        step, and a float64 scalar otherwise.

    Raises:
        UsageError: (the function) a schedule that is a Python function, in a graph.
    """

    def at(step: Any) -> Any:
        if not tf.is_tensor(step):
            return schedule(step)
        number = constant_value(schedule)
        if number is not None:
            return number
        if isinstance(schedule, Ramp):
            return _ramp(schedule, step)
        if isinstance(schedule, Piecewise):
            return _piecewise(schedule, step)
        name = getattr(schedule, "__qualname__", type(schedule).__name__)
        raise UsageError(
            f"the schedule {name} is a Python function, which a tf.function calls only once, when it is traced. Write "
            "it as linear, cosine, exponential, warmup or piecewise, or run the step eagerly"
        )

    return at


def _ramp(ramp: Ramp, step: Tensor) -> Tensor:
    done = tf.cast(step - ramp.start, tf.float64) / ramp.steps
    inside = tf.clip_by_value(done, 0.0, 1.0)
    if ramp.curve == "exponential":
        value = ramp.first * tf.pow(tf.constant(ramp.last / ramp.first, tf.float64), inside)
    else:
        if ramp.curve == "cosine":
            inside = (1 - tf.cos(math.pi * inside)) / 2
        value = ramp.first + (ramp.last - ramp.first) * inside
    first, last = (tf.constant(end, tf.float64) for end in (ramp.first, ramp.last))
    return tf.where(done <= 0, first, tf.where(done >= 1, last, value))  # the ends exactly, without rounding


def _piecewise(pieces: Piecewise, step: Tensor) -> Tensor:
    begun = tf.reduce_sum(tf.cast(step >= tf.constant(pieces.steps, step.dtype), tf.int32))
    return tf.gather(tf.constant(pieces.values, tf.float64), tf.maximum(begun - 1, 0))


def weigh(factor: Any, compute: Callable[[], Tensor], *, dtype: Any = None) -> tuple[Tensor, Tensor]:
    """A component and its product with a factor, a number or a float scalar of the graph.

    Where a factor of the graph is 0 at a step, the component is not computed there, and both are 0. The product is of
    the dtype that is asked for, the loop's own loss's: Keras computes losses in float32 even of float64 outputs.
    """
    value, weighted = _weighed(factor, compute)
    return value, weighted if dtype in (None, weighted.dtype) else tf.cast(weighted, dtype)


def _weighed(factor: Any, compute: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    if not tf.is_tensor(factor):
        value = compute()
        return value, value if factor == 1 else factor * value
    live, outer = factor != 0, live_now()
    _branches.live = live
    try:
        value = compute() if hasattr(factor, _WHOLE) else branch(live, compute)
    finally:
        _branches.live = outer
    setattr(value, PRESENT, live)
    return value, tf.cast(factor, value.dtype) * value


def live_now() -> Tensor | None:
    """Whether the component that is being computed has a weight other than 0 at this step; None where it surely has."""
    return getattr(_branches, "live", None)


def without_branch(weight: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A weight whose term is computed at every step of a graph, for a term that is differentiated once more.

    `tf.gradients` rebuilds a branch that it goes through, which the tape around the step has recorded already.
    """

    def at(step: Any) -> Any:
        factor = weight(step)
        if tf.is_tensor(factor):
            factor = tf.identity(factor)
            setattr(factor, _WHOLE, True)
        return factor

    return at


def branch(condition: Tensor, compute: Callable[[], Tensor]) -> Tensor:
    """A scalar that is computed where a condition holds, and 0 elsewhere."""
    outer = tf.compat.v1.get_default_graph()
    dtype: list[Any] = []

    def taken() -> Tensor:
        with _inside(outer):
            value = compute()
        dtype.append(value.dtype)
        return value

    return tf.cond(condition, taken, lambda: tf.zeros((), dtype[0]))  # the first branch is traced first


@contextmanager
def _inside(outer: Any) -> Iterator[None]:
    stack = _branches.__dict__.setdefault("outer", [])
    stack.append(outer)
    try:
        yield
    finally:
        stack.pop()


@contextmanager
def outside_branches() -> Iterator[None]:
    """Within the block operations are put before the outermost `branch`, for what several terms share.

    A teacher's output that a term asks for first inside of its branch would otherwise be out of reach of the others.
    """
    stack = _branches.__dict__.setdefault("outer", [])
    if not stack:
        yield
        return
    _branches.outer = []
    try:
        with stack[0].as_default():
            yield
    finally:
        _branches.outer = stack
