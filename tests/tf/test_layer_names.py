"""Which names a layer has, and what is said about names that none has."""

from __future__ import annotations

from typing import Any

import keras
import pytest
from keras import layers

from kdhooks.errors import LayerError, ModelError
from kdhooks_tf.layer_names import find_layer, named_layers
from kdhooks_tf.taps import Taps
from tests.tf.tapped_models import KINDS, Subclassed, functional, inputs, sequential, subclassed


def test_own_names_of_all_layers() -> None:
    nested = ["block", "block/up", "block/down"]
    assert list(named_layers(sequential())) == ["", "first", "norm", *nested, "drop", "head"]
    names = list(named_layers(functional()))
    assert [name for name in names if "keras_tensor" not in name and "input" not in name] == [
        "", "entry", "first", "twice", "norm", *nested, "drop", "head",
    ]  # fmt: skip
    blocks = [f"blocks/{index}{part}" for index in (0, 1) for part in ("", "/up", "/down")]
    assert list(named_layers(subclassed())) == ["", "first", "norm", *nested, *blocks, "heads/main", "drop"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_is_found_by_its_own_name_with_either_sign(kind: str) -> None:
    model = KINDS[kind]()
    for name, layer in named_layers(model).items():
        if not isinstance(layer, layers.InputLayer):
            for spelled in (name, name.replace("/", ".")):
                assert find_layer(model, spelled, "student") == (name, layer)


def test_a_subclassed_model_knows_attributes_and_names_of_keras() -> None:
    model = subclassed()
    second = model.blocks[1]
    for name in ("blocks/1", "blocks.1", "two"):
        assert find_layer(model, name, "student") == ("blocks/1", second)
    for name in ("blocks/1/up", "blocks.1.up", "two.up", f"two/{second.up.name}", f"{model.name}/two/up"):
        assert find_layer(model, name, "student") == ("blocks/1/up", second.up)
    assert find_layer(model, "stem", "student") == ("first", model.first)
    assert find_layer(model, "heads/main", "student") == find_layer(model, "head", "student")
    assert find_layer(model, second.up.path, "student") == ("blocks/1/up", second.up)
    assert find_layer(model, "", "student") == ("", model)


def test_layers_inside_of_wrappers() -> None:
    model = keras.Sequential(
        [
            keras.Input((5, 3)),
            layers.Bidirectional(layers.LSTM(2, return_sequences=True, name="lstm"), name="both"),
            layers.TimeDistributed(layers.Dense(4, name="each"), name="times"),
            layers.RNN(layers.GRUCell(2, name="gate"), name="loop"),
        ]
    )
    forward = model.get_layer("both").forward_layer
    for name in ("both/forward_layer", "both.forward_lstm", "both/forward_lstm"):
        assert find_layer(model, name, "student") == ("both/forward_layer", forward)
    for name in ("times.layer", "times/each"):
        assert find_layer(model, name, "student") == ("times/layer", model.get_layer("times").layer)
    assert find_layer(model, "loop/gate", "student")[0] == "loop/cell"


def test_private_attributes_have_the_names_of_keras_and_dots_in_names_are_no_nesting() -> None:
    x = keras.Input((5, 8))
    attention = layers.MultiHeadAttention(2, 4, name="attend")
    model = keras.Model(x, layers.Dense(1, name="conv.1")(attention(x, x)))
    assert find_layer(model, "attend/query", "student")[1] is attention._query_dense
    assert find_layer(model, "attend._query_dense", "student")[0] == "attend/query"
    assert find_layer(model, "conv.1", "student") == ("conv.1", model.get_layer("conv.1"))


def test_siblings_of_the_same_keras_name_keep_apart() -> None:
    class Twins(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self._pair = [layers.Dense(1, name="same"), layers.Dense(1, name="same")]

        def call(self, x: Any) -> Any:
            return self._pair[0](x) + self._pair[1](x)

    model = Twins()
    assert list(named_layers(model)) == ["", "same", "_pair/1"]
    assert find_layer(model, "_pair.1", "student") == ("_pair/1", model._pair[1])
    assert find_layer(model, "_pair.0", "student") == ("same", model._pair[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("blok/up", "student Sequential has no layer 'blok/up'. Did you mean 'block/up'? "),
        ("up", "student Sequential has no layer 'up'. Did you mean 'block/up'? "),
        ("block.upp", "student Sequential has no layer 'block.upp'. Did you mean 'block/up'? "),
        ("zzz", "student Sequential has no layer 'zzz'. "),
        ("block/", "student Sequential has no layer 'block/'. Did you mean 'block'? "),
    ],
)
def test_unknown_layers(name: str, message: str) -> None:
    with pytest.raises(LayerError) as caught:
        Taps(sequential()).find(name)
    assert str(caught.value) == message + "All layers: kdhooks layers MODEL"


def test_a_layer_that_the_teacher_only_has() -> None:
    student, teacher = sequential(), functional()
    with pytest.raises(LayerError) as caught:
        Taps(student, "student", other=("teacher", teacher)).find("twice")
    assert str(caught.value) == (
        "student Sequential has no layer 'twice'. The teacher Functional has one. All layers: kdhooks layers MODEL"
    )
    with pytest.raises(LayerError) as caught:
        Taps(student).find("twice")
    assert str(caught.value) == "student Sequential has no layer 'twice'. All layers: kdhooks layers MODEL"


def test_names_that_end_several_layers_or_mean_two() -> None:
    model = subclassed()
    with pytest.raises(LayerError) as caught:
        find_layer(model, "up", "teacher")
    assert str(caught.value) == (
        "teacher Subclassed has 3 layers that end in 'up': 'block/up', 'blocks/0/up', 'blocks/1/up'. "
        "Write the whole name"
    )

    class Crossed(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.left = layers.Dense(1, name="right")
            self.right = layers.Dense(1, name="tail")

    crossed = Crossed()
    with pytest.raises(LayerError) as caught:
        find_layer(crossed, "right", "student")
    assert str(caught.value) == (
        "student Crossed has 2 layers that 'right' may mean: 'left' (which Keras calls 'right'), 'right' (which Keras "
        "calls 'tail'). Write the other name of the one that is meant: its attribute, or what Keras calls it"
    )
    assert find_layer(crossed, "tail", "student") == ("right", crossed.right)
    assert find_layer(crossed, "left", "student") == ("left", crossed.left)


def test_an_input_layer_is_refused() -> None:
    with pytest.raises(LayerError) as caught:
        Taps(functional()).find("entry")
    assert str(caught.value) == (
        "student Functional: 'entry' is an InputLayer, which no forward calls. Map the input of the layer behind it, "
        "as in 'dense:input', or that of the model: ':input'"
    )


@pytest.mark.parametrize("make", [Subclassed, lambda: keras.Sequential([layers.Dense(2, name="head")])])
def test_a_model_not_yet_built(make: Any) -> None:
    model = make()
    taps = Taps(model)
    for ask in (lambda: taps.find("head"), lambda: taps.attach([("head", False)])):
        with pytest.raises(ModelError) as caught:
            ask()
        assert str(caught.value) == (
            f"student {type(model).__name__} is not built, so its layers have no weights yet: call it once on a batch, "
            "or model.build(input_shape), before distillation begins"
        )
    model(inputs())
    assert taps.find("head") in ("head", "heads/main")
