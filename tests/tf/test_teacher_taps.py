"""A teacher ends early, is called several times, shares layers, is traced."""

from __future__ import annotations

import threading
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from kdhooks_tf.taps import Taps
from kdhooks_tf.teacher import Teacher
from kdhooks_tf.teacher_taps import MOST_SHAPES, TeacherTaps
from tests.tf.tapped_models import FEATURES, KINDS, functional, inputs, sequential, shims, subclassed

RAN: list[int] = []


class Counted(layers.Layer):
    """A dense layer that notes its calls."""

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index
        self.dense = layers.Dense(FEATURES, "tanh")
        self.dense.build((None, FEATURES))

    def call(self, x: Any) -> Any:
        """Of the same shape."""
        RAN.append(self.index)
        return self.dense(x)


class Deep(keras.Model):
    """Twelve layers, the first of which may be called more than once."""

    def __init__(self, repeat: int = 1, careful: bool = False) -> None:
        super().__init__()
        self.blocks = [Counted(index) for index in range(12)]
        self.repeat, self.careful = repeat, careful

    def call(self, x: Any, times: Any = None) -> Any:
        """Of the same shape."""
        for _ in range(self.repeat):
            x = self.blocks[0](x)
        for block in self.blocks[1:]:
            if not self.careful:
                x = block(x)
                continue
            try:
                x = block(x)
            except Exception:
                return x
        return x


def deep(**options: Any) -> tuple[Deep, TeacherTaps, Any]:
    """A built teacher, its taps and an input."""
    model, x = Deep(**options), inputs()
    model(x)
    RAN.clear()
    return model, TeacherTaps(model), x


def ran() -> int:
    """How many layers ran since the last question."""
    count = len(RAN)
    RAN.clear()
    return count


def keys(*names: str) -> frozenset[tuple[str, bool]]:
    """Of the outputs of layers."""
    return frozenset((name, False) for name in names)


@pytest.mark.parametrize("careful", [False, True])
def test_the_forward_ends_at_the_deepest_layer_that_is_wanted(careful: bool) -> None:
    model, taps, x = deep(careful=careful)
    taps.attach([("blocks/4", False), ("blocks/2", False), ("blocks/7", True)])
    whole = model(x)
    ran()
    np.testing.assert_array_equal(taps.run(None, x, training=False), whole)
    assert ran() == 12
    assert taps.order() == [("blocks/2", False), ("blocks/4", False), ("blocks/7", True)]
    for wanted, count in ((keys("blocks/4"), 5), (keys("blocks/2"), 3), (keys("blocks/2", "blocks/4"), 5)):
        assert taps.run(wanted, x, training=False) is None
        assert ran() == count
        assert {key for key, slot in taps.slots.items() if slot.read()} == wanted
    assert taps.run(frozenset({("blocks/7", True)}), x) is None
    assert ran() == 7
    x7 = taps.slots["blocks/7", True].read()[0]
    for block in model.blocks[:7]:
        x = block(x)
    np.testing.assert_allclose(x7, x, rtol=1e-6)
    assert not taps.inside and taps.order()[-1] == ("blocks/7", True)
    np.testing.assert_array_equal(model(inputs()), whole)
    taps.detach()
    assert shims(model) == []


def test_the_first_forward_for_a_shape_runs_whole_and_a_batch_of_another_size_does_not() -> None:
    _, taps, x = deep()
    taps.attach([("blocks/1", False)])
    counts = []
    for value in (x, x, x[:3]):
        taps.run(keys("blocks/1"), value)
        counts.append(ran())
    assert counts == [12, 2, 2]
    for rows in range(MOST_SHAPES + 1):
        taps.run(keys("blocks/1"), x, times=tf.zeros((1, rows)))
    ran()
    taps.run(keys("blocks/1"), x)
    assert ran() == 12
    taps.detach()


def test_a_layer_called_several_times_is_waited_for() -> None:
    _, taps, x = deep(repeat=3)
    taps.attach([("blocks/0", False)])
    for _ in range(2):
        taps.run(keys("blocks/0"), x)
        assert len(taps.slots["blocks/0", False].read()) == 3
    assert ran() == 14 + 3
    taps.detach()


def test_nothing_is_captured_of_forwards_that_were_not_asked_for() -> None:
    model, taps, x = deep()
    taps.attach([("blocks/1", False)])
    with tf.GradientTape():
        model(x)
        model(x, training=True)
    assert taps.slots["blocks/1", False].read() == []
    taps.run(None, x)
    held = taps.slots["blocks/1", False].read()
    model(x)
    assert taps.slots["blocks/1", False].read() is held and len(held) == 1
    taps.release()
    assert taps.slots["blocks/1", False].read() == []
    taps.detach()


@pytest.mark.parametrize("compiled", [False, True])
def test_in_a_function_what_lies_behind_does_not_run(compiled: bool) -> None:
    _, taps, x = deep()
    taps.attach([("blocks/3", False)])
    made: list[int] = []

    def features(x: Any) -> Any:
        assert (taps.run(keys("blocks/3"), x, training=False) is None) is bool(made)
        value = taps.slots["blocks/3", False].read()[0]
        taps.release()
        return value

    found = []
    for _ in range(2):
        function = tf.function(features, jit_compile=compiled)
        found.append(function(x))
        made.append(ran())
    assert made == [12, 4]
    taps.run(keys("blocks/3"), x)
    np.testing.assert_allclose(found[0], taps.slots["blocks/3", False].read()[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-5, atol=1e-6)
    taps.detach()


@pytest.mark.parametrize("way", ["eager", "function"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_gradient_reaches_the_teacher(kind: str, way: str) -> None:
    model, x = KINDS[kind](), inputs()
    before = model.get_weights()
    taps = TeacherTaps(model)
    taps.attach([(taps.find("block.down"), False)])

    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            for _ in range(2):
                ended = taps.run(keys("block/down"), x, training=False) is None
            value = taps.slots["block/down", False].read()[0]
            taps.release()
            loss = tf.reduce_sum(value**2)
        assert ended and all(gradient is None for gradient in tape.gradient(loss, [x, *model.trainable_variables]))
        return value

    value = (tf.function(step, autograph=False) if way == "function" else step)(x)
    assert value.shape == (8, 8)
    assert all(np.array_equal(one, other) for one, other in zip(before, model.get_weights(), strict=True))
    taps.detach()


def test_a_teacher_hook_captures_ends_early_and_forgets_at_the_end() -> None:
    model, _, x = deep()
    teacher = Teacher(model, sequential())
    teacher.on_train_begin()
    teacher.tap().attach([("blocks/4", False)])
    whole = teacher(x)
    assert ran() == 12 and whole.shape == x.shape
    teacher.features(x, keys("blocks/4"))
    assert ran() == 5
    assert len(teacher.taps.slots["blocks/4", False].read()) == 1
    teacher.release()
    assert teacher.taps.slots["blocks/4", False].read() == []
    teacher.on_train_end()
    assert teacher.taps is None and shims(model) == []


@pytest.mark.parametrize("way", ["eager", "function"])
def test_layers_that_both_share_are_captured_for_each(way: str) -> None:
    shared, x = layers.Dense(FEATURES, name="shared"), inputs()
    student = keras.Sequential([keras.Input((FEATURES,)), shared, layers.Dense(2, name="head")])
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(FEATURES, name="own"), shared])
    teacher, taps = Teacher(model, student), Taps(student)
    teacher.on_train_begin()
    teacher.tap().attach([("shared", False)])
    taps.attach([("shared", False)])

    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            student(x, training=True)
            for _ in range(2):
                teacher.features(x, keys("shared"))
            mine, theirs = (one.slots["shared", False].read()[0] for one in (taps, teacher.taps))
            taps.release()
            teacher.release()
            loss = tf.reduce_sum(mine * theirs)
        return mine, theirs, tape.gradient(loss, shared.bias)

    mine, theirs, gradient = (tf.function(step) if way == "function" else step)(x)
    np.testing.assert_allclose(mine, shared(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(theirs, model(x), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gradient, tf.reduce_sum(theirs, 0), rtol=1e-5, atol=1e-5)
    taps.detach()
    teacher.on_train_end()
    assert shims(student) == shims(model) == []


def test_the_model_itself_and_its_input() -> None:
    model, x = functional(), inputs()
    taps = TeacherTaps(model)
    taps.attach([("", False), ("", True), ("head", False)])
    output = taps.run(None, x, training=False)
    assert taps.order() == [("", True), ("head", False), ("", False)]
    np.testing.assert_array_equal(taps.slots["", False].read()[0], output)
    assert taps.run(frozenset({("", True)}), x, training=False) is None
    np.testing.assert_array_equal(taps.slots["", True].read()[0], x)
    np.testing.assert_array_equal(model(x), output)
    taps.detach()


def test_each_thread_runs_its_own_forward() -> None:
    model = subclassed()
    taps = TeacherTaps(model)
    taps.attach([("block/up", False), ("heads/main", False)])
    found: dict[int, Any] = {}

    def replica(rows: int) -> None:
        for _ in range(5):
            taps.run(keys("block/up"), inputs(rows), training=False)
            found[rows] = taps.slots["block/up", False].read()[0].shape[0]

    threads = [threading.Thread(target=replica, args=(rows,)) for rows in (2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {2: 2, 3: 3, 4: 4}
    taps.detach()
