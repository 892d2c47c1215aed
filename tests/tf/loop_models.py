"""Models, batches and loops that are small enough to train in a test, eagerly and in a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

MODES = ("eager", "graph", "compiled")

cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def classifier(seed: int, width: int = 8, *, classes: int = 4, dropout: float = 0.25, dtype: Any = None) -> Any:
    """Two layers with the usual suspects between: BatchNorm, which counts, and dropout, which draws."""
    keras.utils.set_random_seed(seed)
    return keras.Sequential(
        [
            keras.Input([6], dtype=dtype),
            keras.layers.Dense(width, dtype=dtype),
            keras.layers.BatchNormalization(dtype=dtype),
            keras.layers.ReLU(dtype=dtype),
            keras.layers.Dropout(dropout, seed=seed, dtype=dtype),
            keras.layers.Dense(classes, dtype=dtype),
        ]
    )


def kd_conf(weights: Sequence[Any] = (0.5, 0.5), **options: Any) -> dict[str, Any]:
    """A configuration as a dict: KD at T = 2 with these weights."""
    given = {"temperature": 2.0, "loss_weights": list(weights), **options}
    return {"distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": given}}}}


def batches(count: int = 5, size: int = 8) -> list[tuple[Any, Any]]:
    generator = np.random.default_rng(7)
    return [
        (
            tf.constant(generator.normal(size=[size, 6]), tf.float32),
            tf.constant(generator.integers(4, size=[size]), tf.int64),
        )
        for _ in range(count)
    ]


class Loop:
    """A user's loop with a tape; counts how often its step's Python code runs."""

    def __init__(self, student: Any, mode: str = "eager", *, distiller: Any = None, hand_in: Any = None) -> None:
        self.student, self.distiller, self.hand_in = student, distiller, hand_in
        self.optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        self.optimizer.build(student.trainable_variables)
        self.traces = 0
        made: dict[str, Callable[..., Any]] = {
            "eager": self._step,
            "graph": tf.function(self._step),
            "compiled": tf.function(self._step, jit_compile=True),
        }
        self.step = made[mode]

    def _step(self, x: Any, y: Any) -> Any:
        self.traces += 1
        with tf.GradientTape() as tape:
            output = self.student(x, training=True)
            loss = cross_entropy(y, output)
            if self.distiller is not None:
                given = None if self.hand_in is None else self.hand_in(x)
                loss = self.distiller.on_after_compute_loss(x, output, loss, given, target=y)
        gradients = tape.gradient(loss, self.student.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.student.trainable_variables, strict=True))
        return loss

    def run(self, steps: int = 10) -> list[float]:
        data = batches()
        return [float(self.step(*data[step % len(data)])) for step in range(steps)]


def same_weights(one: Any, other: Any) -> bool:
    """Whether two models have bit for bit the same variables, those of generators among them."""
    pairs = list(zip(one.variables, other.variables, strict=True))
    return all(np.array_equal(mine.numpy(), theirs.numpy()) for mine, theirs in pairs)


def surface(model: Any) -> Any:
    """All that a user could see of a model besides its numbers."""
    layers = {id(layer): layer for layer in model._flatten_layers()}.values()
    return [
        (
            layer.name,
            type(layer),
            layer.trainable,
            layer.dtype_policy.name,
            sorted(vars(layer)),
            [(id(variable), variable.trainable) for variable in layer._trainable_variables],
        )
        for layer in layers
    ]
