"""Balances a term against the loop's own loss by the norms of their gradients.

Rules: the factor is a constant of the step and stays on the device, so nothing waits for it; no variable's gradient
is computed here, only that of what the student gave: its logits, or a tapped layer. TensorFlow keeps the operations
that a loss came from in a graph only, so this needs a step inside of a `tf.function`.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kdhooks.errors import ModelError, UsageError
from kdhooks_tf.tapes import stop_recording

Tensor = Any

_SCALE = 1024.0  # of both gradients, so that small ones don't vanish in half precision; cancels in their ratio


def gradient_ratio(student_loss: Tensor, value: Tensor, anchors: Any, what: str) -> Tensor:
    """||d student_loss / d anchors|| / ||d value / d anchors||, the factor that makes both gradients equally long.

    Args:
        student_loss: the loop's own loss, a scalar.
        value: a term, a scalar.
        anchors: a tensor, or a list of tensors, that both were computed from.
        what: names the anchors in errors.

    Returns:
        A scalar of the dtype of `student_loss`, without a gradient; 0 where the term has none, and 1 where a gradient
        is not finite.

    Raises:
        UsageError: in eager mode.
        ModelError: a loss was not computed from the anchors.
    """
    if not tf.inside_function():
        raise UsageError(
            "balance: gradient needs the step inside of a tf.function, or model.fit: in eager mode TensorFlow does not "
            "keep what the loop's own loss was computed from"
        )
    with stop_recording():
        own = _norm(student_loss, anchors, f"the loop's own loss was not computed from {what}")
        other = _norm(value, anchors, f"the term was not computed from {what}")
        ratio = tf.math.divide_no_nan(own, other)
        finite = tf.math.is_finite(own) & tf.math.is_finite(other)
        return tf.stop_gradient(tf.cast(tf.where(finite, ratio, tf.ones_like(ratio)), student_loss.dtype))


def _norm(loss: Tensor, anchors: Any, fault: str) -> Tensor:
    anchors = list(anchors) if isinstance(anchors, (list, tuple)) else [anchors]
    found = [one for one in tf.gradients(loss, anchors, [tf.cast(_SCALE, loss.dtype)]) if one is not None]
    if not found:
        raise ModelError(f"balance: {fault}, so their gradients can't be compared")
    wide = [tf.cast(one, tf.float64 if one.dtype == tf.float64 else tf.float32) for one in found]
    return tf.norm(tf.stack([tf.norm(one) for one in wide])) if len(wide) > 1 else tf.norm(wide[0])
