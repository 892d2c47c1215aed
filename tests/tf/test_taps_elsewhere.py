"""Layers whose tensors the loss cannot use: what is said, word for word."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kdhooks.config.mappings import LayerTap
from kdhooks.errors import LayerError
from kdhooks_tf.layer_mappings import select, tensors_of
from kdhooks_tf.taps import Taps
from tests.tf.tapped_models import attached, inputs, sequential

INNER = (
    " did not run at this step where its tensors can be had: it runs inside of a loop, a branch or a tf.function "
    "within the model (tf.while_loop, tf.scan, tf.map_fn, tf.cond, the cell of an RNN). Map the layer around it"
)
APART = (
    "student Sequential: layer 'first' did not run at this step where the loss is: one of them is in a tf.function, "
    "the other is not, or in another one. Call the student and on_after_compute_loss in the same tf.function, or both "
    "outside of any"
)
SILENT = (
    "student {}: layer 'first' did not run at this step. Map a layer that every forward calls; the student's forward "
    "must come before the loss, under the gradient tape, and not in a tf.function that was traced before distillation "
    "began"
)


class Inner(keras.Model):
    """Calls a layer in a graph within its own."""

    def __init__(self, how: Callable[[Any, Any], Any]) -> None:
        super().__init__()
        self.deep = layers.Dense(6)
        self.deep.build((None, 6))
        self.head = layers.Dense(2)
        self.how = how

    def call(self, x: Any, training: bool = False) -> Any:
        """Logits."""
        return self.head(tf.reshape(self.how(self.deep, x), (-1, 6)))


WITHIN: dict[str, Callable[[Any, Any], Any]] = {
    "while": lambda layer, x: tf.while_loop(lambda i, _: i < 2, lambda i, h: (i + 1, layer(h)), (0, x))[1],
    "cond": lambda layer, x: tf.cond(tf.reduce_sum(x) > 0, lambda: layer(x), lambda: x),
    "map": lambda layer, x: tf.map_fn(layer, x[:, None]),
    "scan": lambda layer, x: tf.scan(lambda h, row: layer(h) + row, x[:, None]),
    "function": lambda layer, x: tf.function(layer)(x),
    "compiled": lambda layer, x: tf.function(layer, jit_compile=True)(x),
    "vectorized": lambda layer, x: tf.vectorized_map(lambda row: layer(row[None]), x),
}


def read(taps: Taps, name: str, *, given: bool = False) -> Any:
    """The tensor of the last call."""
    return tensors_of(LayerTap(taps.find(name), input=given), taps, "last")[0]


def forward_and_read(model: Any, taps: Taps, x: Any, name: str) -> Any:
    """A step's forward, and a layer of it."""
    with tf.GradientTape():
        model(x, training=True)
        return read(taps, name)


@pytest.mark.parametrize("how", WITHIN)
def test_layers_in_loops_branches_and_functions_within_the_model(how: str) -> None:
    model, x = Inner(WITHIN[how]), inputs()
    model(x)
    taps = attached(model, "deep", "head")
    places: list[Callable[[Callable[[], Any]], Any]] = [in_graph]
    if how in ("function", "compiled", "vectorized"):  # the others have no graph of their own in eager execution
        places.append(lambda function: function())
    for place in places:
        with pytest.raises(LayerError) as caught:
            place(lambda: forward_and_read(model, taps, x, "deep"))
        assert str(caught.value) == f"student Inner: layer 'deep'{INNER}"
        place(lambda: forward_and_read(model, taps, x, "head"))
    taps.detach()


@pytest.mark.parametrize("how", ["while", "cond", "map", "scan"])
def test_in_eager_execution_loops_and_branches_are_seen(how: str) -> None:
    model, x = Inner(WITHIN[how]), inputs()
    model(x)
    taps = attached(model, "deep")
    forward_and_read(model, taps, x, "deep")
    assert len(taps.slots["deep", False].read()) == {"while": 2, "cond": 1, "map": 8, "scan": 7}[how]
    taps.detach()


def in_graph(function: Callable[[], Any]) -> None:
    """Trace a function, with AutoGraph as users have it; our errors pass through it as they are."""

    @tf.function
    def traced() -> None:
        function()

    traced()


def test_time_distributed_over_an_unknown_number_of_steps() -> None:
    """Keras runs it with `tf.vectorized_map`, which has no graph of its own within a function."""
    model = keras.Sequential([keras.Input((None, 6)), layers.TimeDistributed(layers.Dense(3), name="times")])
    x = tf.ones((2, 5, 6))
    taps = attached(model, "times.layer", "times")
    for spec in (None, [2, None, 6]):
        known = spec is None

        @tf.function(input_signature=[tf.TensorSpec(spec or x.shape)])
        def step(x: Any, known: bool = known) -> Any:
            with tf.GradientTape():
                model(x, training=True)
            if known:
                assert len(taps.slots["times/layer", False].read()) == 5
            else:
                with pytest.raises(LayerError) as caught:
                    read(taps, "times.layer")
                assert str(caught.value) == f"student Sequential: layer 'times/layer'{INNER}"
            return read(taps, "times")

        assert step(x).shape[-1] == 3
    taps.detach()


def test_a_call_that_is_a_function_in_the_first_step_and_later() -> None:
    class Decorated(layers.Layer):
        def __init__(self, **options: Any) -> None:
            super().__init__(**options)
            self.deep = layers.Dense(6)
            self.deep.build((None, 6))

        @tf.function
        def call(self, x: Any) -> Any:
            return self.deep(x)

    model = keras.Sequential([keras.Input((6,)), Decorated(name="inner"), layers.Dense(2, name="head")])
    x = inputs()
    taps = attached(model, "inner/deep", "inner")
    for _ in range(3):
        for place in (in_graph, lambda function: function()):
            with pytest.raises(LayerError) as caught:
                place(lambda: forward_and_read(model, taps, x, "inner/deep"))
            assert str(caught.value) == f"student Sequential: layer 'inner/deep'{INNER}"
            place(lambda: forward_and_read(model, taps, x, "inner"))
    taps.detach()
    model.get_layer("head").call = tf.function(model.get_layer("head").call)
    taps.attach([("head", False)])
    assert not taps.in_function("head") and taps.in_function("inner/deep")
    assert forward_and_read(model, taps, x, "head").shape == (8, 2)
    taps.detach()
    assert isinstance(model.get_layer("head").call, tf.types.experimental.PolymorphicFunction)


def test_the_cell_of_a_recurrent_layer() -> None:
    model = keras.Sequential([keras.Input((5, 6)), layers.RNN(layers.GRUCell(3), name="loop")])
    x = tf.ones((2, 5, 6))
    taps = attached(model, "loop/cell", "loop")
    with pytest.raises(LayerError) as caught:
        in_graph(lambda: forward_and_read(model, taps, x, "loop.cell"))
    assert str(caught.value) == f"student Sequential: layer 'loop/cell'{INNER}"
    assert tf.function(lambda: forward_and_read(model, taps, x, "loop"))().shape == (2, 3)
    taps.detach()


def test_the_forward_and_the_loss_must_be_in_one_place() -> None:
    model, x = sequential(), inputs()
    taps = attached(model, "first")

    def forward() -> Any:
        with tf.GradientTape():
            return model(x, training=True)

    forward()
    with pytest.raises(LayerError) as caught:  # it would be a constant of the function
        in_graph(lambda: read(taps, "first"))
    assert str(caught.value) == APART
    tf.function(forward)()
    with pytest.raises(LayerError) as caught:
        read(taps, "first")
    assert str(caught.value) == APART
    tf.function(forward)()
    with pytest.raises(LayerError) as caught:
        in_graph(lambda: read(taps, "first"))
    assert str(caught.value) == APART
    forward()
    assert read(taps, "first").shape == (8, 8)
    taps.detach()


def test_a_loss_in_a_branch_of_the_function_of_the_forward() -> None:
    model, x = sequential(), inputs()
    taps = attached(model, "first")

    @tf.function
    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            model(x, training=True)
            loss = tf.cond(tf.reduce_sum(x) < 1e9, lambda: tf.reduce_sum(read(taps, "first")), lambda: 0.0)
        taps.release()
        return tape.gradient(loss, model.get_layer("first").kernel)

    np.testing.assert_allclose(step(x)[:, 0], tf.reduce_sum(x, 0), rtol=1e-4, atol=1e-6)
    taps.detach()


def test_a_function_traced_before_and_a_forward_without_a_tape() -> None:
    model, x = sequential(), inputs()
    before = tf.function(lambda x: model(x, training=True))
    before(x)
    taps = attached(model, "first")
    for forward in (before, model):
        if forward is before:
            with tf.GradientTape():
                before(x)
        else:
            model(x)
        with pytest.raises(LayerError) as caught:
            read(taps, "first")
        assert str(caught.value) == SILENT.format("Sequential")
    taps.detach()


def test_selectors_know_tensors() -> None:
    taps = attached(sequential(), "first")
    value = {"a": tf.ones(2), "b": [tf.ones(3)]}
    assert select(value, LayerTap("first", "b.0"), taps).shape == (3,)
    with pytest.raises(LayerError) as caught:
        select(value, LayerTap("first", ""), taps)
    assert str(caught.value) == (
        "student Sequential: layer 'first' returned a mapping with the keys 'a', 'b', and no selector says which is "
        "meant. Write the selector behind the layer, as in [first, 'a']"
    )
    taps.detach()
