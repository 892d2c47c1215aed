"""Keras models of each kind, with the same layers under the same names."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers

from kdhooks_tf.taps import Taps

FEATURES, CLASSES = 6, 4


def inputs(rows: int = 8, seed: int = 0) -> Any:
    """Floats of shape [rows, FEATURES]."""
    return tf.constant(np.random.default_rng(seed).normal(size=(rows, FEATURES)), tf.float32)


def labels(rows: int = 8, seed: int = 0) -> Any:
    """Class numbers of shape [rows]."""
    return tf.constant(np.random.default_rng(seed).integers(0, CLASSES, rows))


def sequential() -> Any:
    """A Sequential model in a Sequential model."""
    block = keras.Sequential([layers.Dense(8, "tanh", name="up"), layers.Dense(8, "relu", name="down")], name="block")
    parts = [layers.Dense(8, name="first"), layers.BatchNormalization(name="norm"), block]
    return keras.Sequential(
        [keras.Input((FEATURES,)), *parts, layers.Dropout(0.5, name="drop"), layers.Dense(CLASSES, name="head")]
    )


def functional() -> Any:
    """A functional model in a functional model, with a layer that is called twice."""
    inside = keras.Input((8,))
    block = keras.Model(inside, layers.Dense(8, "relu", name="down")(layers.Dense(8, "tanh", name="up")(inside)))
    block.name = "block"
    entry = keras.Input((FEATURES,), name="entry")
    x = layers.Dense(8, name="first")(entry)
    twice = layers.Dense(8, "tanh", name="twice")
    x = block(layers.BatchNormalization(name="norm")(twice(twice(x))))
    return keras.Model(entry, layers.Dense(CLASSES, name="head")(layers.Dropout(0.5, name="drop")(x)))


class Block(layers.Layer):
    """Two layers under attributes."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.up = layers.Dense(8, "tanh")
        self.down = layers.Dense(8, "relu")

    def build(self, shape: Any) -> None:
        """Build both."""
        self.up.build(shape)
        self.down.build((*shape[:-1], 8))

    def call(self, x: Any) -> Any:
        """Of the same shape."""
        return self.down(self.up(x))


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """Layers in attributes, lists and mappings; some with names of their own."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first = layers.Dense(8, name="stem")
        self.norm = layers.BatchNormalization()
        self.block = Block()
        self.blocks = [Block(name="one"), Block(name="two")]
        self.heads = {"main": layers.Dense(CLASSES, name="head")}
        self.drop = layers.Dropout(0.5)

    def call(self, x: Any, training: bool = False) -> Any:
        """Logits."""
        x = self.block(self.norm(self.first(x), training=training))
        for block in self.blocks:
            x = x + block(x)
        return self.heads["main"](self.drop(x, training=training))


def subclassed() -> Any:
    """A subclassed model, built."""
    model = Subclassed()
    model(inputs())
    return model


KINDS = {"sequential": sequential, "functional": functional, "subclassed": subclassed}


def attached(model: Any, *outputs: str, given: tuple[str, ...] = ()) -> Taps:
    """Taps on the outputs and the inputs of layers, under their own names."""
    taps = Taps(model)
    taps.attach([*((taps.find(name), False) for name in outputs), *((taps.find(name), True) for name in given)])
    return taps


def shims(model: Any) -> list[str]:
    """The layers in whose `__dict__` there is a `call`."""
    return [layer.name for layer in model._flatten_layers() if "call" in layer.__dict__]
