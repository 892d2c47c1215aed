"""Models with hidden layers to follow, and loops that train them, for the tests of intermediate layers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdhooks import Distillation
from kdhooks_tf import IntermediateLayersKnowledgeDistillationLoss

CROSS_ENTROPY = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

MODES = ["eager", "graph", "xla"]


def traced(step: Any, mode: str) -> Any:
    return step if mode == "eager" else tf.function(step, jit_compile=mode == "xla")


class Twice(keras.layers.Layer):
    """Calls its layer twice and returns both results."""

    def __init__(self, width: int, **options: Any) -> None:
        super().__init__(**options)
        self.layer = keras.layers.Dense(width, name="layer")

    def call(self, x: Any) -> Any:
        once = tf.tanh(self.layer(x))
        return self.layer(once), once


class Net(keras.Model):
    """Rows to logits through two hidden layers; ``block`` returns a tuple."""

    def __init__(self, width: int = 8, **options: Any) -> None:
        super().__init__(**options)
        self.first = keras.layers.Dense(width, name="first")
        self.block = Twice(width, name="block")
        self.head = keras.layers.Dense(4, name="head")

    def call(self, x: Any) -> Any:
        return self.head(self.block(tf.tanh(self.first(x)))[0])


def subclassed(width: int = 8) -> Any:
    model = Net(width)
    model(tf.zeros([1, 6]))
    return model


def sequential(width: int = 8) -> Any:
    dense = keras.layers.Dense
    return keras.Sequential(
        [keras.Input((6,)), dense(width, name="first"), dense(width, "relu"), dense(4, name="head")]
    )


def functional(width: int = 8) -> Any:
    x = keras.Input((6,))
    hidden = keras.layers.Dense(width, name="first")(x)
    return keras.Model(x, keras.layers.Dense(4, name="head")(keras.layers.Activation("tanh")(hidden)))


KINDS = {"sequential": sequential, "functional": functional, "subclassed": subclassed}


def made(kind: Any, width: int, seed: int = 0) -> Any:
    """A model with weights that only a seed decides."""
    model = kind(width)
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        variable.assign(generator.normal(scale=0.4, size=variable.shape))
    return model


def models(kind: Any = subclassed) -> tuple[Any, Any]:
    return made(kind, 8, 1), made(kind, 12, 2)


def batches(count: int = 4, rows: int = 8) -> list[tuple[Any, Any]]:
    generator = np.random.default_rng(3)
    inputs, labels = generator.normal(size=(count, rows, 6)), generator.integers(4, size=(count, rows))
    return [(tf.constant(x, tf.float32), tf.constant(y)) for x, y in zip(inputs, labels, strict=True)]


def criterion(**options: Any) -> IntermediateLayersKnowledgeDistillationLoss:
    given = {"layer_mappings": [["first", "first"], ["head"]], "loss_weights": [1.0, 0.5], "add_origin_loss": True}
    return IntermediateLayersKnowledgeDistillationLoss(**(given | options))


def distillation(student: Any, teacher: Any, optimizer: Any = None, **options: Any) -> Distillation:
    distiller = Distillation(student_model=student, teacher_model=teacher)
    distiller.optimizer = optimizer
    distiller.criterion = criterion(**options)
    return distiller


def total_of(distiller: Distillation, student: Any, x: Any, y: Any) -> Any:
    output = student(x, training=True)
    return distiller.on_after_compute_loss(x, output, CROSS_ENTROPY(y, output))


def stepping(distiller: Distillation, student: Any, optimizer: Any, mode: str = "eager") -> Any:
    """One step of the loop, eagerly, in a graph, or compiled by XLA; gives the total and the student's gradients."""

    def step(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            total = total_of(distiller, student, x, y)
            scaled = optimizer.scale_loss(total)
        gradients = tape.gradient(scaled, student.trainable_variables)
        optimizer.apply_gradients(zip(gradients, student.trainable_variables, strict=True))
        return total, gradients

    return step if mode == "eager" else tf.function(step, jit_compile=mode == "xla")


def train(distiller: Distillation, step: Any, steps: int = 5, name: str = "MSE[first]") -> list[float]:
    data, losses = batches(), []
    for index in range(steps):
        step(*data[index % len(data)])
        losses.append(distiller.losses[name])
    return losses


def arrays(variables: Sequence[Any]) -> list[Any]:
    return [np.array(variable.numpy()) for variable in variables]


def all_equal(one: Sequence[Any], other: Sequence[Any]) -> bool:
    return len(one) == len(other) > 0 and all(map(np.array_equal, one, other))


def from_yaml(folder: Path, options: str, student: Any, teacher: Any, kind: str = "IntermediateLayers") -> Distillation:
    lines = "".join(f"        {line}\n" for line in options.splitlines())
    path = folder / "kd.yaml"
    head = f"distillation:\n  train:\n    criterion:\n      {kind}KnowledgeDistillationLoss:\n"
    path.write_text(head + lines)
    return Distillation(path, student_model=student, teacher_model=teacher)
