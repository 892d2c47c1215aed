"""Matchers learn beside the student in every kind of loop, and leave what the student learns alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks.criterion import Objective, Step, Term
from kdhooks.errors import CheckpointError
from kdhooks_tf import DistillationCallback
from kdhooks_tf.matcher_training import MatcherTraining, total
from kdhooks_tf.matchers import build_matcher
from kdhooks_tf.weighing import weigh
from tests.tf.feature_models import (
    CROSS_ENTROPY,
    KINDS,
    all_equal,
    arrays,
    batches,
    distillation,
    functional,
    models,
    stepping,
    train,
)

MODES = ["eager", "graph", "xla"]
OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adamw": lambda: keras.optimizers.AdamW(0.02, weight_decay=0.1, clipnorm=0.05),
    "accumulating": lambda: keras.optimizers.Adam(0.02, gradient_accumulation_steps=2),
    "averaging": lambda: keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5, ema_overwrite_frequency=2),
    "scheduled": lambda: keras.optimizers.SGD(keras.optimizers.schedules.InverseTimeDecay(0.2, 1, 1.0)),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.02)),
    "fixed scale": lambda: keras.optimizers.SGD(0.1, loss_scale_factor=64.0),
}


class Alone:
    """A criterion of one matcher between constant features, without models."""

    student_label = "CE"

    def __init__(self, training: MatcherTraining, dtype: str = "float32") -> None:
        self.training = training
        self.matcher = build_matcher("linear", (4, 3), (4, 2), seed=1)
        generator = np.random.default_rng(0)
        self.x, self.y = (tf.constant(generator.normal(size=size), dtype) for size in ((4, 3), (4, 2)))
        self.added = False
        self.terms = [Term("MSE", lambda step: 0.5, self.loss)]

    @staticmethod
    def student_weight(step: Any) -> float:
        return 1.0

    def loss(self, step: Any) -> Any:
        if not self.added:
            self.added = True
            self.training.add(self.matcher.trainable_variables)
        return tf.reduce_mean(tf.square(tf.cast(self.matcher(self.x, self.y)[0] - self.y, tf.float32)))

    def step(self, index: int = 0) -> Any:
        return total(Objective([self]), Step(index, None, None), tf.constant(1.0), weigh)[0]


def by_hand(optimizer: Any, alone: Alone) -> list[Any]:
    """What the user's own optimizer makes of these variables, where they stand in it from the beginning."""
    matcher = build_matcher("linear", (4, 3), (4, 2), seed=1)
    variables = matcher.trainable_variables

    def step() -> None:
        with tf.GradientTape() as tape:
            loss = 1.0 + 0.5 * tf.reduce_mean(tf.square(matcher(alone.x, alone.y)[0] - alone.y))
            scaled = optimizer.scale_loss(loss)
        optimizer.apply_gradients(zip(tape.gradient(scaled, [one.value for one in variables]), variables, strict=True))

    for _ in range(5):
        step()
    return arrays(variables)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_ours_is_an_optimizer_of_the_users_class_and_configuration(name: str) -> None:
    user = OPTIMIZERS[name]()
    alone = Alone(MatcherTraining(user))
    before = arrays(alone.matcher.variables)
    for index in range(5):
        alone.step(index)
        user.iterations.assign_add(1) if name == "scheduled" else None  # as the user's own step does
    expected = by_hand(OPTIMIZERS[name](), Alone(MatcherTraining()))
    assert not all_equal(before, arrays(alone.matcher.variables))
    for one, other in zip(arrays(alone.matcher.variables), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mode", MODES)
def test_the_learning_rate_is_the_users_at_every_step(mode: str) -> None:
    user = keras.optimizers.SGD(0.0)
    alone = Alone(MatcherTraining(user))
    step = alone.step if mode == "eager" else tf.function(alone.step, jit_compile=mode == "xla")
    before = arrays(alone.matcher.variables)
    step()
    assert all_equal(before, arrays(alone.matcher.variables))
    user.learning_rate = 0.5  # what callbacks do
    first = float(step())
    assert not all_equal(before, arrays(alone.matcher.variables)) and float(step()) < first
    user.learning_rate.assign(0.0)
    before = arrays(alone.matcher.variables)
    step()
    assert all_equal(before, arrays(alone.matcher.variables))


@pytest.mark.parametrize("mode", MODES)
def test_a_loss_scale_is_respected(mode: str) -> None:
    user = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))
    user.build([keras.Variable(0.0)])
    user.dynamic_scale.assign(2.0**10)
    alone = Alone(MatcherTraining(user), "float16")
    alone.y = tf.constant(alone.y * 1e-3 + tf.cast(alone.matcher(alone.x, alone.y)[0], "float16"))
    step = alone.step if mode == "eager" else tf.function(alone.step, jit_compile=mode == "xla")
    before = arrays(alone.matcher.variables)
    step()
    after = arrays(alone.matcher.variables)
    assert not all_equal(before, after) and all(np.isfinite(one).all() for one in after)
    user.dynamic_scale.assign(3e38)  # in half precision an infinite loss: this step is skipped
    step()
    assert all_equal(after, arrays(alone.matcher.variables))
    user.dynamic_scale.assign(2.0**10)
    step()
    assert all(np.isfinite(one).all() for one in arrays(alone.matcher.variables))


def test_without_an_optimizer_it_says_what_it_does(caplog: pytest.LogCaptureFixture) -> None:
    alone = Alone(MatcherTraining())
    with caplog.at_level("WARNING", "kdhooks"):
        losses = [float(alone.step(index)) for index in range(3)]
    assert [record.getMessage() for record in caplog.records] == [
        "the feature matchers are trained by Adam with a learning rate of 0.001, since no optimizer is known: pass the "
        "student's to on_train_begin(optimizer=...)"
    ]
    assert losses[0] > losses[1] > losses[2]
    caplog.clear()
    with caplog.at_level("WARNING", "kdhooks"):
        Alone(MatcherTraining(object())).step()
    assert [record.getMessage() for record in caplog.records] == [
        "the feature matchers are trained by Adam with a learning rate of 0.001, since object is not one of Keras: "
        "pass the student's to on_train_begin(optimizer=...)"
    ]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["sequential", "functional", "subclassed"])
def test_matchers_learn_in_a_custom_loop(kind: str, mode: str) -> None:
    student, teacher = models(KINDS[kind])
    optimizer = keras.optimizers.SGD(0.05)
    distiller = distillation(student, teacher, optimizer)
    with distiller:
        step = stepping(distiller, student, optimizer, mode)
        first = train(distiller, step, 1)
        weights = arrays(distiller.parameters())
        losses = train(distiller, step, 24)
        assert not all_equal(weights, arrays(distiller.parameters())) and len(weights) == 2
        assert losses[-1] < 0.7 * first[0]


@pytest.mark.parametrize("mode", MODES)
def test_the_students_gradients_are_those_of_a_loop_by_hand(mode: str) -> None:
    student, teacher = models()
    optimizer = keras.optimizers.SGD(0.1)
    distiller = distillation(student, teacher, optimizer, layer_mappings=[["first"]], loss_weights=[0.5])
    x, y = batches()[0]
    matcher = distiller.criterion.init_feature_matcher(student.first(x), teacher.first(x))

    def by_hand(x: Any, y: Any) -> Any:
        with tf.GradientTape() as tape:
            hidden = student.first(x)
            logits = student.head(student.block(tf.tanh(hidden))[0])
            matched, wanted = matcher(hidden, tf.stop_gradient(teacher.first(x)))
            loss = CROSS_ENTROPY(y, logits) + 0.5 * tf.reduce_mean(tf.square(matched - wanted))
        return loss, tape.gradient(loss, student.trainable_variables)

    expected = (by_hand if mode == "eager" else tf.function(by_hand, jit_compile=mode == "xla"))(x, y)
    with distiller:
        found = stepping(distiller, student, keras.optimizers.SGD(0.0), mode)(x, y)
    if mode == "xla":  # which fuses each of the two programs in its own way
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-6)
        for one, other in zip(found[1], expected[1], strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)
    else:
        assert float(found[0]) == float(expected[0])
        assert all_equal(arrays(found[1]), arrays(expected[1]))


@pytest.mark.parametrize("name", ["adamw", "accumulating", "scaled", "averaging"])
def test_resume_is_bit_identical(name: str) -> None:
    def run(optimizer: Any, steps: range, state: Any = None, weights: Any = None, slots: Any = None) -> Any:
        student, teacher = models()
        distiller = distillation(student, teacher, optimizer, loss_types=[{"vid": {}}, "MSE"])
        optimizer.build(student.trainable_variables)
        for variables, values in ((student.weights, weights), (optimizer.variables, slots)):
            for variable, value in zip(variables, values or (), strict=values is not None):
                variable.assign(value)
        if state is not None:
            distiller.load_state_dict(state)
        data = batches()
        with distiller:
            step = stepping(distiller, student, optimizer)
            for index in steps:
                step(*data[index % len(data)])
            return distiller.state_dict(), arrays(student.weights), arrays(optimizer.variables)

    whole = run(OPTIMIZERS[name](), range(6))
    half = run(OPTIMIZERS[name](), range(3))
    resumed = run(OPTIMIZERS[name](), range(3, 6), *half)
    assert all_equal(whole[1], resumed[1]) and all_equal(whole[2], resumed[2])
    (one,), (other,) = whole[0]["criteria"], resumed[0]["criteria"]
    assert len(one["modules"]["0"]["weights"]) > 2 and one["modules"].keys() == other["modules"].keys()
    for index, modules in one["modules"].items():
        assert not modules["weights"] or all_equal(modules["weights"], other["modules"][index]["weights"])
    assert all_equal(one["training"][0]["values"], other["training"][0]["values"])


def test_a_state_of_another_optimizer_or_of_other_pairs_is_refused() -> None:
    student, teacher = models()
    optimizer = keras.optimizers.Adam(0.01)
    distiller = distillation(student, teacher, optimizer)
    with distiller:
        train(distiller, stepping(distiller, student, optimizer), 1)
        state = distiller.state_dict()
    for other, options, message in (
        (keras.optimizers.SGD(0.01), {}, "the state's matchers were trained by another optimizer than SGD"),
        (
            keras.optimizers.Adam(0.01),
            {"layer_mappings": [["first"]], "loss_weights": [1.0]},
            "the state holds 2 pairs of layers, and this criterion has 1",
        ),
        (
            keras.optimizers.Adam(0.01),
            {"feature_matchers": ["mlp", "auto"]},
            "the state belongs to other matchers or losses: pair 'first' -> 'first' has weights of shapes "
            "[[8, 12], [12], [12, 12], [12]], and the state [[8, 12], [12]]",
        ),
    ):
        another = distillation(student, teacher, other, **options)
        another.load_state_dict(state)
        with pytest.raises(CheckpointError) as caught:
            another.on_train_begin()
        assert str(caught.value) == message


def test_a_pair_that_joins_later_has_an_optimizer_of_its_own() -> None:
    student, teacher = models()
    optimizer = keras.optimizers.Adam(0.01)
    later = {"piecewise": {"values": {0: 0.0, 2: 1.0}}}
    distiller = distillation(
        student, teacher, optimizer, layer_mappings=[["first"], ["block.layer"]], loss_weights=[1.0, later]
    )
    with distiller:
        step = stepping(distiller, student, optimizer)
        train(distiller, step, 2)
        training = distiller.criterion.training
        assert [len(variables) for variables, _ in training.groups] == [2]
        train(distiller, step, 3)
        assert [(len(variables), int(one.iterations)) for variables, one in training.groups] == [(2, 5), (2, 3)]
        state = distiller.state_dict()
    again = distillation(
        student, teacher, optimizer, layer_mappings=[["first"], ["block.layer"]], loss_weights=[1.0, later]
    )
    again.load_state_dict(state)
    with again:
        groups = again.criterion.training.groups
        assert [(len(variables), int(one.iterations)) for variables, one in groups] == [(2, 5), (2, 3)]


def test_on_two_devices_as_on_one() -> None:
    command = [sys.executable, "-m", "tests.tf.mirrored_matchers"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    *matchers, student = (list(map(float, line.split())) for line in done.stdout.splitlines())
    assert len(matchers) == 2 and all(between == 0 and apart < 1e-5 for between, apart in matchers)
    assert student[0] < 1e-5


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras' own callback
@pytest.mark.parametrize("xla", [False, True])
def test_in_fit_matchers_follow_what_callbacks_do_to_the_learning_rate(xla: bool) -> None:
    student, teacher = models(functional)
    student.compile(keras.optimizers.Adam(0.01), CROSS_ENTROPY, jit_compile=xla)
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(50, 6)).astype("float32"), generator.integers(4, size=50)
    distiller = distillation(student, teacher)
    weights: list[Any] = []

    class Look(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            weights.append(arrays(distiller.parameters()))

    follow = keras.callbacks.LearningRateScheduler(lambda epoch: 0.0 if epoch == 2 else 0.01)
    callbacks = [DistillationCallback(distiller), follow, Look()]
    history = student.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=callbacks).history  # the last batch has 2
    losses = history["distillation/MSE[first]"]
    assert losses[-1] < losses[0] and len(weights[0]) == 2
    assert not all_equal(weights[0], weights[1])
    assert all_equal(weights[1], weights[2]) and not all_equal(weights[2], weights[3])
