"""What is captured of a forward, when, and that nothing stays."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kdhooks.errors import LayerError
from kdhooks_tf.taps import Taps
from tests.tf.tapped_models import KINDS, attached, functional, inputs, sequential, shims, subclassed

WAYS: dict[str, Callable[[Any], Any]] = {
    "eager": lambda step: step,
    "function": tf.function,
    "compiled": lambda step: tf.function(step, jit_compile=True),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_inputs_and_gradients(kind: str, way: str) -> None:
    model, x = KINDS[kind](), inputs()
    taps = attached(model, "first", "block.down", "head", "", given=("block", ""))
    first, norm = taps.find("first"), taps.find("norm")
    kernel = model.get_layer(first).kernel if kind != "subclassed" else model.first.kernel

    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            output = model(x, training=True)
            found = {key: slot.read() for key, slot in taps.slots.items()}
            loss = tf.reduce_sum(found[first, False][0] ** 2)
        values = {key: value[-1] for key, value in found.items()}
        taps.release()
        return output, values, tape.gradient(loss, kernel)

    output, values, gradient = WAYS[way](step)(x)
    expected = tf.matmul(x, kernel)
    np.testing.assert_allclose(values[first, False], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, 2 * tf.matmul(x, expected, transpose_a=True), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(values["", True], x)
    np.testing.assert_allclose(values["", False], output, rtol=1e-6)
    np.testing.assert_allclose(values[taps.find("head"), False], output, rtol=1e-6)
    assert values["block/down", False].shape == values["block", True].shape == (8, 8)
    assert norm not in {name for name, _ in taps.slots}
    assert all(slot.calls == [] for slot in taps.slots.values())
    taps.detach()
    assert shims(model) == []


def test_a_layer_called_twice_and_layers_of_nested_models_in_order() -> None:
    model, x = functional(), inputs()
    taps = attached(model, "twice", "block/up", given=("block/down", "twice"))
    with tf.GradientTape():
        model(x)
    one, two = taps.slots["twice", False].read()
    np.testing.assert_array_equal(taps.slots["twice", True].read()[1], one)
    np.testing.assert_allclose(model.get_layer("twice")(one), two, rtol=1e-6)
    np.testing.assert_array_equal(taps.slots["block/up", False].read()[0], taps.slots["block/down", True].read()[0])
    taps.attach([("twice", False)])
    assert len(model.get_layer("twice").__dict__["call"].outputs) == 1
    taps.detach()


def test_inputs_are_what_the_caller_gave() -> None:
    class Two(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.embed = layers.Embedding(5, 4, mask_zero=True)
            self.attend = layers.MultiHeadAttention(1, 4)
            self.last = layers.Dense(2)

        def call(self, x: Any, extra: Any = None, training: bool = False) -> Any:
            x = self.embed(x)
            x = self.attend(x, x, attention_mask=tf.ones((1, 3, 3), tf.bool), training=training)
            return self.last(x)

    model, tokens = Two(), np.array([[1, 2, 0]])
    model(tokens)
    taps = attached(model, given=("", "embed", "attend", "last"))
    with tf.GradientTape():
        model(tokens, extra=tf.ones(2), training=True)
    given = {name: slot.read()[0] for (name, _), slot in taps.slots.items()}
    assert sorted(given[""]) == ["0", "extra"]
    np.testing.assert_array_equal(given[""]["extra"], [1, 1])
    np.testing.assert_array_equal(given["embed"], tokens)
    assert sorted(given["attend"]) == ["0", "1", "attention_mask"]
    assert given["last"].shape == (1, 3, 4)
    taps.detach()
    plain = sequential()
    taps = attached(plain, given=("",))
    with tf.GradientTape():
        plain(np.ones((2, 6), "float32"))
    assert tf.is_tensor(taps.slots["", True].read()[0])
    taps.detach()


def test_evaluation_is_not_captured_and_does_not_disturb_a_step() -> None:
    model, x = subclassed(), inputs()
    taps = attached(model, "first", "blocks.1.up")
    slot = taps.slots["first", False]
    model(x)
    model(x, training=False)
    model.predict(x, verbose=0)
    assert slot.read() == []
    with tf.GradientTape() as tape:
        model(x, training=True)
        kept = slot.read()[0]
        with tape.stop_recording():
            model(x * 2)
    model(x * 3)
    model.first(x)
    tf.function(model)(x, training=False)
    assert slot.read() == [kept]
    taps.detach()


def test_only_the_last_forward_is_held_and_nothing_after_the_loss() -> None:
    model, x = sequential(), inputs()
    taps = attached(model, "first", "block/down")
    held = []
    with tf.GradientTape():
        for _ in range(5):
            model(x)
    for _ in range(6):
        with tf.GradientTape():
            for _ in range(3):
                model(x, training=True)
        assert [len(slot.calls) for slot in taps.slots.values()] == [1, 1]
        taps.release()
        gc.collect()
        held.append(sum(issubclass(type(one), tf.Tensor) for one in gc.get_objects()))
    assert held[2:] == [held[2]] * 4
    with tf.GradientTape():
        for _ in range(5):  # layers without their model
            model.get_layer("first")(x)
    assert len(taps.slots["first", False].calls) == 1
    taps.detach()


def test_a_function_that_trains_without_a_tape_is_captured() -> None:
    model, x = sequential(), inputs()
    taps = attached(model, "first")

    @tf.function
    def step(x: Any) -> Any:
        model(x, training=True)
        loss = tf.reduce_sum(taps.slots["first", False].read()[0])
        taps.release()
        return tf.gradients(loss, x)[0]

    np.testing.assert_allclose(step(x)[0], tf.reduce_sum(model.get_layer("first").kernel, 1), rtol=1e-5)
    taps.detach()


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_is_captured_as_it_left_the_layer(policy: str) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        model, x = functional(), inputs()
    finally:
        keras.config.set_dtype_policy("float32")
    taps = attached(model, "first", given=("head",))
    for way in ("eager", "function"):

        def step(x: Any) -> Any:
            with tf.GradientTape():
                model(x, training=True)
            found = [slot.read()[0] for slot in taps.slots.values()]
            taps.release()
            return found

        assert {value.dtype.name for value in WAYS[way](step)(x)} == {policy.removeprefix("mixed_")}
    taps.detach()


def test_a_layer_that_is_rematerialized_is_refused() -> None:
    with keras.RematScope(mode="full"):
        inner = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="deep")], name="inner")
    model = keras.Sequential([keras.Input((6,)), inner, layers.Dense(2, name="head")])
    taps = Taps(model)
    with pytest.raises(LayerError) as caught:
        taps.attach([("inner/deep", False)])
    assert str(caught.value) == (
        "student Sequential: layer 'inner/deep' is computed once more in the backward, since 'inner' was made in a "
        "RematScope, so its values cannot be had. Make it outside of the scope, or map the input of the layer behind it"
    )
    assert shims(model) == []
    taps.attach([("head", True)])
    with tf.GradientTape():
        model(inputs())
    assert taps.slots["head", True].read()[0].shape == (8, 6)
    taps.detach()


class Outer(keras.Model):
    """Holds a layer that has a layer, and is marked as built before either is."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Nest()

    def build(self, input_shape: Any) -> None:
        """Builds nothing below, as a model without a `build` of its own."""

    def call(self, x: Any) -> Any:
        """What the block gives."""
        return self.block(x)


class Nest(layers.Layer):
    """Built by Keras at its first call, by a trial of it in a graph that is thrown away."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x: Any) -> Any:
        """A dense layer."""
        return self.dense(x)


@pytest.mark.parametrize("traced", [False, True])
def test_a_layer_that_keras_builds_at_its_first_call_is_captured_then(traced: bool) -> None:
    model = Outer()
    model.build((None, 4))
    assert not model.block.built
    taps = Taps(model)
    taps.attach([("block", False), ("block/dense", False)])

    def step(x: Any) -> Any:
        with tf.GradientTape():
            output = model(x, training=True)
        ((block,), (dense,)) = (slot.read() for slot in taps.slots.values())
        return output - block, output - dense

    with_graph = tf.function(step) if traced else step
    assert [float(tf.reduce_max(tf.abs(one))) for one in with_graph(tf.ones([2, 4]))] == [0.0, 0.0]
    taps.detach()
