"""The cross-entropy of the target's labelled rows."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kdhooks.errors import ModelError
from kdhooks.losses.shapes import fits
from kdhooks_tf.adaptation.adapter import wide
from kdhooks_tf.losses.positions import shape_of

Tensor = Any


def labelled_loss(logits: Tensor, labels: Any, ignore_index: int) -> Tensor:
    """The mean cross-entropy of rows with a label; 0 where none has one.

    Args:
        logits: [M, C] or [M, ..., C].
        labels: class numbers of the same shape without the class axis.
        ignore_index: the label of rows, tokens or pixels without one.

    Raises:
        ModelError: shapes that don't fit.
    """
    labels = tf.convert_to_tensor(labels) if labels is not None and not isinstance(labels, (str, dict)) else None
    if labels is None or labels.dtype.is_floating or not fits(shape_of(labels), shape_of(logits)[:-1]):
        got = "missing" if labels is None else f"{labels.dtype.name} of shape {shape_of(labels)}"
        raise ModelError(f"target_labels must be class numbers for logits of shape {shape_of(logits)}, and are {got}")
    counted = labels != ignore_index
    losses = tf.nn.sparse_softmax_cross_entropy_with_logits(tf.where(counted, labels, 0), wide(logits))
    total = tf.reduce_sum(tf.where(counted, losses, tf.zeros_like(losses)))
    return total / tf.maximum(tf.reduce_sum(tf.cast(counted, losses.dtype)), 1)
