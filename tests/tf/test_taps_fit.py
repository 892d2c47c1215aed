"""Capture inside of `fit`: what it changes, and what the loss sees."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kdhooks_tf.taps import Taps
from tests.tf.tapped_models import attached, functional, inputs, shims


@pytest.mark.parametrize("compiled", [False, True])
def test_fit_with_taps_gives_the_same_weights_bit_for_bit(compiled: bool) -> None:
    weights = []
    for tapped in (False, True):
        keras.utils.set_random_seed(3)
        model = functional()
        model.compile(
            keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True), jit_compile=compiled
        )
        x, y = inputs(32), np.arange(32) % 4
        if tapped:
            taps: Taps = attached(model, "first", "block/down", "twice", "", given=("head",))
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, validation_data=(x, y))
        weights.append(model.get_weights())
        model.evaluate(x, y, verbose=0)
    assert all(np.array_equal(one, other) for one, other in zip(*weights, strict=True))
    taps.detach()
    assert shims(model) == []


@pytest.mark.parametrize(("way", "steps"), [("eager", 1), ("function", 2), ("compiled", 1)])
def test_in_fit_the_loss_reads_what_the_step_captured(way: str, steps: int) -> None:
    class Watched(keras.Sequential):
        def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True) -> Any:
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
            if training:
                (first,) = taps.slots["first", False].read()
                loss += tf.reduce_mean(first**2)
                taps.release()
            else:
                assert taps.slots["first", False].read() == []
            return loss

    kernels = []
    for watched in (True, False):
        keras.utils.set_random_seed(1)
        first = layers.Dense(8, name="first")
        model = (Watched if watched else Penalized)([keras.Input((6,)), first, layers.Dense(4, name="head")])
        taps = attached(model, "first") if watched else Taps(model)
        loss = keras.losses.SparseCategoricalCrossentropy(True)
        options = {"run_eagerly": way == "eager", "jit_compile": way == "compiled", "steps_per_execution": steps}
        model.compile(keras.optimizers.SGD(0.1), loss, **options)
        x, y = inputs(32), np.arange(32) % 4
        model.fit(x, y, batch_size=8, epochs=2, verbose=0, validation_data=(x, y))
        model.evaluate(x, y, verbose=0)
        assert all(slot.read() == [] for slot in taps.slots.values())
        taps.detach()
        kernels.append(model.get_layer("first").kernel.numpy())
    np.testing.assert_allclose(*kernels, rtol=1e-5, atol=1e-6)


class Penalized(keras.Sequential):
    """The same loss, by a second forward of the layer."""

    def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True) -> Any:
        """The loss and the mean square of the first layer's features."""
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return loss + tf.reduce_mean(self.get_layer("first")(x) ** 2) if training else loss
