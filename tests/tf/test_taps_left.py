"""After a detach, a copy or a save nothing of ours is left, and what others put there is."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kdhooks_tf.layer_names import find_layer
from kdhooks_tf.shims import Shim
from tests.tf.tapped_models import KINDS, attached, inputs, sequential, shims

SAVING = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
"""Keras makes arrays of its variables in the way of NumPy 1."""


@pytest.mark.parametrize("kind", KINDS)
def test_after_detach_every_dict_is_what_it_was(kind: str) -> None:
    model, x = KINDS[kind](), inputs()
    first = find_layer(model, "first", "student")[1]
    first.__dict__["call"] = own = first.call
    before = [(layer, dict(vars(layer))) for layer in model._flatten_layers()]
    tracked = len(model._flatten_layers()), len(model.weights), model.to_json() if kind != "subclassed" else ""
    taps = attached(model, "first", "block/down", "", "head", given=("block", "first"))
    assert len(shims(model)) == 5
    assert tracked == (
        len(model._flatten_layers()), len(model.weights), model.to_json() if kind != "subclassed" else "",
    )  # fmt: skip
    taps.detach()
    taps.detach()
    for layer, variables in before:
        assert list(vars(layer)) == list(variables)
        assert all(vars(layer)[name] is value for name, value in variables.items())
    assert first.__dict__["call"] is own
    model(x)


@SAVING
@pytest.mark.parametrize("kind", KINDS)
def test_copies_clones_pickles_and_saved_models_have_no_shim(kind: str, tmp_path: Path) -> None:
    model, x = KINDS[kind](), inputs()
    lines: list[list[str]] = [[], []]
    model.summary(print_fn=lines[0].append, expand_nested=True)
    config = model.get_config()
    taps = attached(model, "first", "block/down", "", given=("head",))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, np.zeros(8), verbose=0)
    model.summary(print_fn=lines[1].append, expand_nested=True)
    assert "Optimizer params" in "".join(lines[1]) or len(lines[0]) == len(lines[1])
    assert model.get_config() == config
    model.save(tmp_path / "x.keras")
    assert b"kdhooks" not in (tmp_path / "x.keras").read_bytes()
    twins = [
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        keras.models.load_model(tmp_path / "x.keras"),
    ]
    expected = model(x)
    for twin in twins:
        assert shims(twin) == []
        np.testing.assert_array_equal(twin(x), expected)
    if kind != "subclassed":
        assert shims(keras.models.clone_model(model)) == []
    with tf.GradientTape():
        twins[0](x)
    assert taps.slots["", False].read() == []
    assert inspect.signature(model.call) == inspect.signature(type(model).call.__get__(model))
    assert len(shims(model)) == 4
    taps.detach()


@SAVING
def test_an_exported_model_has_no_shim(tmp_path: Path) -> None:
    model, x = sequential(), inputs()
    taps = attached(model, "first", "")
    model.export(tmp_path / "exported", verbose=False)
    assert taps.slots["first", False].read() == []
    taps.detach()
    exported = tf.saved_model.load(tmp_path / "exported")
    np.testing.assert_allclose(exported.serve(x), model(x), rtol=1e-5)


def test_a_copy_of_the_state_of_an_object_calls_its_own_class() -> None:
    class Plain:
        def call(self) -> Any:
            return self

    one = Plain()
    shim = Shim(one)
    assert one.call is shim and one.call() is one
    twin = copy.deepcopy(one)
    assert type(twin) is Plain and twin.call() is twin


def test_two_on_the_same_layers_and_a_shim_of_somebody_else() -> None:
    model, x = sequential(), inputs()
    one, other = attached(model, "first"), attached(model, "first", "head")
    with tf.GradientTape():
        model(x)
    assert one.slots["first", False].read()[0] is other.slots["first", False].read()[0]
    one.detach()
    with tf.GradientTape():
        model(x)
    assert len(other.slots["head", False].read()) == 1
    assert sorted(shims(model)) == sorted(["first", "head", model.name])
    head = model.get_layer("head")
    ours = head.__dict__["call"]
    head.__dict__["call"] = lambda *args, **kwargs: ours(*args, **kwargs) + 1
    before = model(x)
    other.detach()
    np.testing.assert_array_equal(model(x), before)
    assert shims(model) == ["head"]


def test_two_models_that_share_a_layer() -> None:
    shared, x = layers.Dense(6, name="shared"), inputs()
    one = keras.Sequential([keras.Input((6,)), shared, layers.Dense(2, name="head")])
    other = keras.Sequential([keras.Input((6,)), layers.Dense(6, name="own"), shared])
    taps = attached(one, "shared")
    with tf.GradientTape():
        one(x)
        kept = taps.slots["shared", False].read()
        other(x)
    assert taps.slots["shared", False].read() == kept and len(kept) == 1
    taps.detach()


def test_each_thread_has_its_own_values() -> None:
    """As replicas of MirroredStrategy, which take turns in the middle of a forward."""
    turn = threading.Barrier(2)

    class Waits(layers.Layer):
        def call(self, x: Any) -> Any:
            if tf.executing_eagerly():
                turn.wait(20)
            return x

    model = keras.Sequential([keras.Input((6,)), layers.Dense(3, name="first"), Waits(), layers.Dense(2, name="head")])
    taps = attached(model, "first", "head")
    found: dict[int, list[Any]] = {}

    def replica(number: int) -> None:
        with tf.GradientTape():
            model(inputs(rows=number))
            turn.wait(20)
            found[number] = [value for slot in taps.slots.values() for value in slot.read()]
            taps.release()

    threads = [threading.Thread(target=replica, args=(number,)) for number in (2, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {number: [value.shape[0] for value in values] for number, values in found.items()} == {
        2: [2, 2], 5: [5, 5],
    }  # fmt: skip
    assert taps.slots["first", False].read() == []
    taps.detach()
