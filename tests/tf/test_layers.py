"""The layers of a model as a table, and those that a configuration names."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kdhooks.config.mappings import LayerTap
from kdhooks.errors import LayerError, ModelError
from kdhooks_tf.layers import example_inputs, list_layers, list_tapped
from tests.tf.tapped_models import Subclassed, functional, inputs, sequential, shims, subclassed


def test_rows_of_a_sequential_model() -> None:
    model = sequential()
    model.compile("sgd", "mse")
    before = model.get_weights()
    rows = list_layers(model, [inputs(3)])
    assert rows == [
        {"layer": "''", "type": "Sequential", "output": "[3, 4]", "parameters": 56 + 32 + 144 + 36},
        {"layer": "first", "type": "Dense", "output": "[3, 8]", "parameters": 56},
        {"layer": "norm", "type": "BatchNormalization", "output": "[3, 8]", "parameters": 32},
        {"layer": "block", "type": "Sequential", "output": "[3, 8]", "parameters": 144},
        {"layer": "block/up", "type": "Dense", "output": "[3, 8]", "parameters": 72},
        {"layer": "block/down", "type": "Dense", "output": "[3, 8]", "parameters": 72},
        {"layer": "drop", "type": "Dropout", "output": "[3, 8]", "parameters": 0},
        {"layer": "head", "type": "Dense", "output": "[3, 4]", "parameters": 36},
    ]
    assert [{key: row[key] for key in ("layer", "type", "parameters")} for row in rows] == list_layers(model)
    assert shims(model) == []
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))


def test_rows_of_functional_and_subclassed_models() -> None:
    rows = {row["layer"]: row for row in list_layers(functional(), [inputs(2)])}
    assert rows["entry"] == {"layer": "entry", "type": "InputLayer", "output": "-", "parameters": 0}
    assert rows["twice"] == {"layer": "twice", "type": "Dense", "output": "[2, 8]", "parameters": 72}
    model = subclassed()
    assert [(row["layer"], row["parameters"]) for row in list_layers(model)][-2:] == [("heads/main", 36), ("drop", 0)]


def test_a_shared_layer_counts_once_and_outputs_of_many_kinds() -> None:
    class Many(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.one = self.same = layers.Dense(2)
            self.unused = layers.Dense(5)
            self.unused.build((None, 4))
            self.parts = Parts()

        def call(self, x: Any) -> Any:
            return {"logits": self.one(x), "parts": self.parts(x)}

    class Parts(layers.Layer):
        def call(self, x: Any) -> Any:
            return x, [x, x[0]]

    model = Many()
    rows = {row["layer"]: row for row in list_layers(model, [inputs(3)])}  # builds it
    assert model.built
    assert list(rows) == ["''", "one", "unused", "parts"]
    assert rows["''"]["output"] == "{logits: [3, 2], parts: ([3, 6], ([3, 6], [6]))}"
    assert rows["''"]["parameters"] == rows["one"]["parameters"] + rows["unused"]["parameters"] == 14 + 25
    assert rows["unused"] == {"layer": "unused", "type": "Dense", "output": "-", "parameters": 25}


def test_layers_in_loops_have_no_shape_of_their_own() -> None:
    scan = keras.Sequential([keras.Input((6,)), Mapped(name="mapped")])
    assert [row["output"] for row in list_layers(scan, [inputs(3)])] == ["[3, 1, 2]", "[3, 1, 2]", "..."]


class Mapped(layers.Layer):
    """A layer applied row by row."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.inner = layers.Dense(2)

    def build(self, shape: Any) -> None:
        """Build what is inside."""
        self.inner.build((1, shape[-1]))

    def call(self, x: Any) -> Any:
        """Of shape [N, 1, 2]."""
        return tf.vectorized_map(lambda row: self.inner(row[None]), x)


def test_tapped_layers() -> None:
    taps = [
        ("layer_mappings[0]", LayerTap("stem")),
        ("layer_mappings[1]", LayerTap("blocks.1.down", input=True)),
        ("layer_mappings[2]", LayerTap("")),
    ]
    model = Subclassed()
    assert list_tapped(model, taps, [inputs(5)], "teacher") == [
        {"mapping": "layer_mappings[0]", "layer": "'first'", "type": "Dense", "shape": "[5, 8]"},
        {"mapping": "layer_mappings[1]", "layer": "'blocks/1/down' (its input)", "type": "Dense", "shape": "[5, 8]"},
        {"mapping": "layer_mappings[2]", "layer": "''", "type": "Subclassed", "shape": "[5, 4]"},
    ]
    assert list_tapped(model, taps[:1], [], "teacher") == [
        {"mapping": "layer_mappings[0]", "layer": "'first'", "type": "Dense"}
    ]
    assert shims(model) == []


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("frist", "teacher Subclassed has no layer 'frist'. Did you mean 'first'? All layers: kdhooks layers MODEL"),
        ("drop", "teacher Subclassed: layer 'drop' did not run at this step. Map a layer that every forward calls"),
    ],
)
def test_tapped_layers_that_are_not_there_or_do_not_run(layer: str, message: str) -> None:
    model = subclassed()
    model.call = lambda x, training=False: model.heads["main"](model.first(x))
    with pytest.raises(LayerError) as caught:
        list_tapped(model, [("layer_mappings[0]", LayerTap(layer))], [inputs()], "teacher")
    assert str(caught.value) == message
    assert shims(model) == [model.name]  # the user's own


def test_inputs_that_do_not_fit() -> None:
    class Even(layers.Layer):
        def call(self, x: Any) -> Any:
            if tf.executing_eagerly() and x.shape[0] % 2:
                raise ValueError("an even batch is needed.")
            return x

    model = keras.Sequential([keras.Input((5,)), Even(name="first")])
    for ask in (
        lambda: list_layers(model, [tf.ones((3, 5))]),
        lambda: list_tapped(model, [("layer_mappings[0]", LayerTap("first"))], [tf.ones((3, 5))], "student"),
    ):
        with pytest.raises(ModelError) as caught:
            ask()
        assert str(caught.value) == "Sequential failed on an input of shape [3, 5]: an even batch is needed"
    assert shims(model) == []
    assert list_layers(model, [tf.ones((2, 5))])[1]["output"] == "[2, 5]"


def test_example_inputs_are_fixed_and_draw_from_no_generator() -> None:
    tf.random.set_seed(1)
    expected = tf.random.uniform((2,))
    tf.random.set_seed(1)
    one = example_inputs([(2, 3), (2, 3)], [(1, 4)])
    np.testing.assert_array_equal(tf.random.uniform((2,)), expected)
    other = example_inputs([(2, 3), (2, 3)], [(1, 4)])
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert [tuple(tensor.shape) for tensor in one] == [(2, 3), (2, 3), (1, 4)]
    assert not np.array_equal(one[0], one[1])
    np.testing.assert_array_equal(one[2], [[0, 1, 0, 1]])


def test_example_inputs_that_do_not_fit_into_memory() -> None:
    with pytest.raises(ModelError, match=r"^no example input can be made: "):
        example_inputs([(2**20, 2**20, 2**20)], [])
