"""Labels for the losses that look at them, from the target that a Keras fit was given."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kdhooks.errors import ModelError
from kdhooks_tf.outputs import tensor_of

Tensor = Any


def labels(y: Any, output: Any) -> Tensor | None:
    """Integer labels of the shape of the logits without their class axis.

    Args:
        y: the target as Keras hands it to ``compute_loss``: labels [N] or [N, 1] of any dtype, or one
            number a class, [N, C], of which the greatest is the label; other leading axes likewise.
        output: what the student returned, with logits [N, C].

    Returns:
        int64 labels, or None where the target is none of these (several outputs, a regression).
    """
    if not tf.is_tensor(y):
        return None
    try:
        logits = tensor_of(output)
    except ModelError:  # a criterion of features alone needs none
        return None
    rank, classes = logits.shape.rank, logits.shape[-1]
    if rank is None or y.shape.rank is None:
        return None
    if y.shape.rank == rank and y.shape[-1] == 1:
        y = tf.squeeze(y, -1)
    elif y.shape.rank == rank and y.shape[-1] == classes:
        return tf.argmax(y, -1)
    return tf.cast(y, tf.int64) if y.shape.rank == rank - 1 and y.dtype != tf.string else None
