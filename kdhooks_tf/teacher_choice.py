"""How a teacher runs where ``auto`` leaves that open, and how far it is from full precision then.

Rules: the choice is made once, by timing a few forwards side by side on one batch, and said in one line. While a
function is traced the batch of the step has no numbers yet: there it is the first of the training data, or, where
these are not known as in Keras' own ``fit``, one made up in the shapes that the function gets. Nothing is drawn from
anybody's generators.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from kdhooks.config.model import Precision
from kdhooks.errors import ModelError
from kdhooks.messages import logger
from kdhooks_tf.outputs import logits_of

ROUNDS = 5
"""Forwards of each candidate, in turns with the others, after one that traces."""

ROWS, LENGTH = 32, 64
"""Sizes of a made-up batch where a function is traced for any."""


class Batch(NamedTuple):
    """Arguments of a teacher, eager tensors, and what the batch is called in messages."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    name: str


def candidates() -> tuple[Precision, ...]:
    """The precisions that may be faster on this machine: float16 is on GPUs only."""
    return ("fp32", "bf16", "fp16") if tf.config.list_logical_devices("GPU") else ("fp32", "bf16")


def fastest(names: Sequence[Precision], forward: Callable[[Precision, Batch], Any], batch: Batch) -> Precision:
    """The precision whose forward takes the least time, which is said.

    Args:
        names: what is tried.
        forward: runs the teacher in a precision.
        batch: on what.
    """
    seconds: dict[Precision, list[float]] = {name: [] for name in names}
    for turn in range(ROUNDS + 1):
        for name in names:
            begun = perf_counter()
            _wait(forward(name, batch))
            if turn:
                seconds[name].append(perf_counter() - begun)
    medians = {name: median(times) for name, times in seconds.items()}
    chosen = min(medians, key=lambda name: medians[name])
    timed = ", ".join(f"{name} {1000 * time:.1f} ms" for name, time in medians.items())
    logger.info("the teacher runs in %s, the fastest in %d forwards of %s: %s", chosen, ROUNDS, batch.name, timed)
    return chosen


def report_difference(precision: Precision, low: Any, full: Any, batch: Batch) -> None:
    """Say how far a teacher's logits are from those in full precision, on one batch."""
    try:
        ours, exact = (np.asarray(tf.cast(logits_of(one, model="teacher"), tf.float64)) for one in (low, full))
    except ModelError:  # a teacher of features alone has none
        return
    if not exact.size:
        return
    apart = np.abs(ours - exact)
    logger.info(
        "the teacher in %s and in fp32, on %s: logits differ by %.3g at most and %.3g on average, and %.2f%% have the "
        "same largest class",
        precision,
        batch.name,
        apart.max(),
        apart.mean(),
        100 * np.mean(ours.argmax(-1) == exact.argmax(-1)),
    )


def made_up(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Batch | None:
    """A batch in the shapes of a traced one: floats are normal, whole numbers 1; None where there are other values."""
    flat = tf.nest.flatten((args, kwargs))
    if any(tf.is_tensor(one) and (one.shape.rank is None or not _is_number(one)) for one in flat):
        return None
    values = [_made_up(one) if tf.is_tensor(one) else one for one in flat]
    given, named = tf.nest.pack_sequence_as((args, kwargs), values)
    return Batch(given, named, "a made-up batch")


def fits(batch: Batch, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a batch has the form of the arguments that a function is traced for."""
    try:
        tf.nest.assert_same_structure((batch.args, batch.kwargs), (args, kwargs))
    except (TypeError, ValueError):
        return False
    pairs = zip(tf.nest.flatten((batch.args, batch.kwargs)), tf.nest.flatten((args, kwargs)), strict=True)
    return all(
        mine.dtype == theirs.dtype and theirs.shape[1:].is_compatible_with(mine.shape[1:])
        for mine, theirs in pairs
        if tf.is_tensor(mine) and tf.is_tensor(theirs)
    )


def _is_number(tensor: Any) -> bool:
    return isinstance(tensor, tf.Tensor) and (
        tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool
    )


def _made_up(tensor: Any) -> Any:
    sizes = [(LENGTH if axis else ROWS) if size is None else size for axis, size in enumerate(tensor.shape)]
    if tensor.dtype.is_floating:
        return tf.cast(tf.random.stateless_normal(sizes, [1, 2]), tensor.dtype)
    return tf.ones(sizes, tensor.dtype)


def _wait(output: Any) -> None:
    for one in tf.nest.flatten(output):
        if tf.is_tensor(one):
            one.numpy()
