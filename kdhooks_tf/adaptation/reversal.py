"""Gradient reversal: the identity, whose gradient is multiplied by -coefficient."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

Tensor = Any


def reverse_gradient(feature: Tensor, coefficient: float | Tensor = 1.0) -> Tensor:
    """The feature itself; what flows back through it comes out times -coefficient.

    Ganin & Lempitsky 2015, "Unsupervised Domain Adaptation by Backpropagation", equations 14 and 15.

    Args:
        feature: of any shape.
        coefficient: a number, or a scalar tensor of a graph, through which no gradient flows.

    >>> x = tf.constant([1.0, 2.0])
    >>> with tf.GradientTape() as tape:
    ...     tape.watch(x)
    ...     total = tf.reduce_sum(reverse_gradient(x, 0.5))
    >>> tape.gradient(total, x).numpy().tolist()
    [-0.5, -0.5]
    """
    known = isinstance(coefficient, (int, float))  # tf.cast would round it to float32 first
    strength = tf.constant(coefficient, feature.dtype) if known else tf.cast(coefficient, feature.dtype)

    @tf.custom_gradient  # type: ignore[untyped-decorator]  # TensorFlow ships no types
    def reversal(value: Tensor) -> Any:
        return tf.identity(value), lambda upstream: -strength * upstream

    return reversal(feature)
