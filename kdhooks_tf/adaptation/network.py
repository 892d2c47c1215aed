"""The networks that adapters own: a discriminator of rows, and a random map."""

from __future__ import annotations

import itertools
from typing import Any

import tensorflow as tf

from kdhooks_tf.losses.modules import GENERATOR, Drawing

Tensor = Any


class Discriminator(tf.Module):  # type: ignore[misc]
    """Rows to one logit: linear layers with ReLU between them.

    Args:
        width: of a row.
        hidden_size: of the hidden layers.
        hidden_layers: how many; 0 is a linear discriminator.
        seed: of the weights, uniform up to 1 / √inputs.
        dtype: of the weights.
    """

    def __init__(self, width: int, hidden_size: int, hidden_layers: int, seed: int, dtype: str) -> None:
        super().__init__()
        sizes = [width, *[hidden_size] * hidden_layers, 1]
        drawing = Drawing(seed)
        self.width = width
        self.layers = [Layer(*ends, drawing, dtype) for ends in itertools.pairwise(sizes)]

    def __call__(self, rows: Tensor) -> Tensor:
        """The logit of each row [N, width] being of the source, [N]."""
        for index, layer in enumerate(self.layers):
            rows = layer(tf.nn.relu(rows) if index else rows)
        return tf.squeeze(rows, -1)


class Layer(tf.Module):  # type: ignore[misc]
    """x W + b with W [inputs, outputs]."""

    def __init__(self, inputs: int, outputs: int, drawing: Drawing, dtype: str) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.kernel = tf.Variable(drawing.uniform((inputs, outputs), bound, dtype))
        self.bias = tf.Variable(drawing.uniform((outputs,), bound, dtype))

    def __call__(self, rows: Tensor) -> Tensor:
        """The result [N, outputs]."""
        return tf.matmul(rows, tf.cast(self.kernel, rows.dtype)) + tf.cast(self.bias, rows.dtype)


def random_map(width: int, size: int, seed: int, place: int, dtype: str) -> Tensor:
    """A variable [width, size] of normal numbers that never learns."""
    drawn = tf.random.stateless_normal((width, size), [seed, place], dtype=tf.float64, alg=GENERATOR)
    kept = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(tf.cast(drawn, dtype), trainable=False, aggregation=kept)
