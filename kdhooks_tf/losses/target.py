"""Losses between a student's logits and the labels, for the built-in loop; a user's loop has its own.

`sample_weight` is [N] or of the shape of the positions; the mean is over the positions that have a
label, as in Keras: sum(weight * loss) / number.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kdhooks.losses import shapes
from kdhooks.names import Table
from kdhooks_tf.losses.positions import Counted, labels, position_weight, shape_of, widened, zero

TARGET_LOSSES: Table[Callable[..., Any]] = Table("loss against the target")
"""What ``loss_types[0]`` may name when `fit()` runs the built-in loop."""


@TARGET_LOSSES.register("CE")
def target_cross_entropy(logits: Any, target: Any, sample_weight: Any = None) -> Any:
    """Cross-entropy; mean over the labelled positions, 0 where a batch has no label at all.

    Args:
        logits: [N, C], [N, T, C] or [N, H, W, C].
        target: class indices in the shape of the positions (or with an axis of size 1 after them), -100
            for unlabelled; or probabilities of the shape of `logits`.
        sample_weight: [N] or the shape of the positions.
    """
    target = tf.convert_to_tensor(target)
    logits, _ = widened(logits, logits)
    weight = position_weight(logits, sample_weight, -1)
    if target.dtype.is_floating and shapes.fits(shape_of(target), shape_of(logits)):
        (blanked,) = Counted(None, weight).blank(logits)
        return Counted(None, weight).mean(-tf.cast(target, logits.dtype) * tf.nn.log_softmax(blanked))
    if target.shape.rank == logits.shape.rank and target.shape[-1] == 1:
        target = tf.squeeze(target, -1)  # Keras writes labels as [N, 1] too
    label = labels(target, logits, -1)
    counted = Counted(tf.not_equal(label, -100), weight)
    (logits,) = counted.blank(logits)
    values = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(counted.mask, label, zero(label)), logits)
    return counted.total(values) / counted.number(values)


@TARGET_LOSSES.register("MSE")
def _mse(logits: Any, target: Any, sample_weight: Any = None) -> Any:
    logits, target, counted = _alike(logits, target, sample_weight)
    return _mean(tf.math.squared_difference(logits, target), counted)


@TARGET_LOSSES.register("L1")
def _l1(logits: Any, target: Any, sample_weight: Any = None) -> Any:
    logits, target, counted = _alike(logits, target, sample_weight)
    return _mean(tf.abs(logits - target), counted)


@TARGET_LOSSES.register("BCE")
def _bce(logits: Any, target: Any, sample_weight: Any = None) -> Any:
    logits, target, counted = _alike(logits, target, sample_weight)
    return _mean(tf.nn.sigmoid_cross_entropy_with_logits(labels=target, logits=logits), counted)


def _alike(logits: Any, target: Any, sample_weight: Any) -> tuple[Any, Any, Counted]:
    """Both as [N, outputs] in one dtype, and what the samples weigh."""
    logits, target = widened(logits, tf.cast(target, logits.dtype))
    logits, target = tf.reshape(logits, [tf.shape(logits)[0], -1]), tf.reshape(target, [tf.shape(logits)[0], -1])
    counted = Counted(None, position_weight(logits, sample_weight, -1))
    logits, target = counted.blank(logits, target)
    return logits, target, counted


def _mean(values: Any, counted: Counted) -> Any:
    """Mean over a sample's outputs, then over the samples."""
    means = tf.reduce_mean(values, -1)
    return counted.total(means) / counted.number(means)
