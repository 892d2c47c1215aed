"""Domain adaptation in loops of one's own, against the same loop written by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.errors import CheckpointError, ConfigError, ModelError, UsageError
from kdhooks_tf.adaptation import DANN, DomainBatch, mcc
from tests.tf.callback_models import data, log_softmax, student

X, Y = data(24)
TARGET = data(18, seed=5)[0] + 1.0
FROM_LOGITS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
DANN_ON_RELU = {"DANN": {"layer": "relu", "hidden_size": 8}}


def conf(criterion: Any = None, **options: Any) -> dict[str, Any]:
    adapters = {**DANN_ON_RELU, "MCC": {"weight": 0.5}} if criterion is None else criterion
    return {"domain_adaptation": {"criterion": adapters, "reversal": {"steps": 10}, **options}}


def optimizer(model: Any) -> Any:
    made = keras.optimizers.SGD(0.05, momentum=0.9)
    made.build(model.trainable_variables)
    return made


class Loop:
    """A user's loop; `loss` is called under the tape with both batches and the output."""

    def __init__(self, model: Any, loss: Callable[..., Any], *, way: Any = tf.function) -> None:
        self.model, self.optimizer = model, optimizer(model)

        def step(x: Any, y: Any, other: Any) -> Any:
            with tf.GradientTape() as tape:
                output = model(x, training=True)
                total = loss(x, output, FROM_LOGITS(y, output), other)
            self.optimizer.apply(tape.gradient(total, model.trainable_variables), model.trainable_variables)
            return total

        self.step = way(step)

    def variables(self) -> list[Any]:
        return [*self.model.weights, *self.optimizer.variables]

    def run(self, first: int = 0, last: int = 6) -> list[float]:
        totals = []
        for number in range(first, last):
            at, there = 8 * (number % 3), 6 * (number % 3)
            batch = (X[at : at + 8], Y[at : at + 8], TARGET[there : there + 6])
            totals.append(float(self.step(*map(tf.constant, batch))))
        return totals


def adapting(distiller: Distillation) -> Callable[..., Any]:
    return lambda x, output, loss, other: distiller.on_after_compute_loss(x, output, loss, target_input=other)


def weights(model: Any) -> list[Any]:
    return [np.array(one.numpy()) for one in model.weights]


def close(one: list[Any], other: list[Any], **tolerance: Any) -> None:
    for mine, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(mine, theirs, **{"rtol": 1e-5, "atol": 1e-6, **tolerance})


def plain(*, dropout: float = 0.0) -> Any:
    return student(dropout=dropout)


@pytest.mark.parametrize("way", [lambda step: step, tf.function(jit_compile=True)], ids=["eager", "compiled"])
def test_a_loop_written_by_hand_makes_the_same_steps(way: Any) -> None:
    model = plain()
    distiller = Distillation(conf(a_distance=True), student_model=model)
    loop = Loop(model, adapting(distiller), way=way)
    distiller.on_train_begin(optimizer=loop.optimizer)
    totals = loop.run()
    assert set(distiller.losses) == {"CE", "DANN", "DANN.domain_accuracy", "DANN.a_distance", "MCC", "total"}
    distiller.on_train_end()
    assert not any("call" in vars(layer) for layer in model.layers)

    by_hand, adapter, steps = plain(), DANN(hidden_size=8), tf.Variable(0.0)
    features = keras.Model(by_hand.inputs, [by_hand.get_layer("relu").output, by_hand.outputs[0]])
    adapter.build(*[DomainBatch((tf.zeros([2, 8]),), tf.zeros([2, 4]))] * 2)
    theirs = keras.optimizers.SGD(0.05, momentum=0.9)
    theirs.build(list(adapter.trainable_variables))

    def whole(x: Any, y: Any, other: Any) -> Any:
        with tf.GradientTape(persistent=True) as tape:
            own, output = features(x, training=True)
            hidden, logits = features(other, training=True)
            coefficient = 2 / (1 + tf.exp(-10.0 * steps / 10)) - 1
            domain = adapter(DomainBatch((own,), output), DomainBatch((hidden,), logits), coefficient=coefficient)
            total = FROM_LOGITS(y, output) + domain + 0.5 * mcc(logits, temperature=2.5)
        mine.optimizer.apply(tape.gradient(total, by_hand.trainable_variables), by_hand.trainable_variables)
        theirs.apply(tape.gradient(total, adapter.trainable_variables), adapter.trainable_variables)
        steps.assign_add(1.0)
        return total

    mine = Loop(by_hand, lambda x, output, loss, other: loss)
    mine.step = tf.function(whole)
    close(totals, mine.run())
    close(weights(model), weights(by_hand))


def test_a_resumed_run_ends_with_the_same_bits() -> None:
    def begun(model: Any) -> tuple[Distillation, Loop]:
        adapters = {**DANN_ON_RELU, "CDAN": {"layer": "relu", "hidden_size": 8, "randomized": True, "random_size": 4}}
        distiller = Distillation(conf(adapters), student_model=model)
        return distiller, Loop(model, adapting(distiller))

    distiller, loop = begun(plain())
    distiller.on_train_begin(optimizer=loop.optimizer)
    whole = loop.run()
    expected = weights(loop.model)

    distiller, loop = begun(plain())
    distiller.on_train_begin(optimizer=loop.optimizer)
    half = loop.run(0, 3)
    state, kept = distiller.state_dict(), [np.array(one.numpy()) for one in loop.variables()]
    again, other = begun(plain())
    for one, value in zip(other.variables(), kept, strict=True):
        one.assign(value)
    again.load_state_dict(state)
    again.on_train_begin(optimizer=other.optimizer)
    assert [*half, *other.run(3, 6)] == whole
    assert all(np.array_equal(*pair) for pair in zip(weights(other.model), expected, strict=True))

    third = Distillation(conf(), student_model=plain())
    third.on_train_begin()
    with pytest.raises(CheckpointError) as told:
        third.load_state_dict(state)
    assert str(told.value) == (
        "the state belongs to another domain adaptation: the state holds the adapters DANN, CDAN, and this run has "
        "DANN, MCC"
    )


def test_with_weight_0_the_very_loss_comes_back_and_the_target_is_not_run() -> None:
    model = plain()
    distiller = Distillation(conf({"MCC": {"weight": 0.0}}), student_model=model)
    before = weights(model)
    with distiller:
        loss = tf.constant(1.0)
        output = model(X[:8])
        assert distiller.on_after_compute_loss(X[:8], output, loss, target_input=TARGET) is loss
    assert all(np.array_equal(*pair) for pair in zip(weights(model), before, strict=True))


def test_a_scheduled_adapter_and_the_reversal_stand_still_while_its_weight_is_0() -> None:
    adapters = {"DANN": {"layer": "relu", "hidden_size": 8, "weight": {"step": {"values": {0: 0.0, 3: 1.0}}}}}
    model = plain()
    distiller = Distillation(conf(adapters), student_model=model)
    loop = Loop(model, adapting(distiller))
    distiller.on_train_begin(optimizer=loop.optimizer)
    loop.run(0, 3)
    assert "DANN" not in distiller.losses and "DANN.domain_accuracy" not in distiller.losses
    assert distiller.state_dict()["criteria"][0]["steps"] == 0
    loop.run(3, 5)
    assert "DANN.domain_accuracy" in distiller.losses
    assert distiller.state_dict()["criteria"][0]["steps"] == 2


def test_a_joint_forward_takes_batch_statistics_over_both() -> None:
    model = student(dropout=0.0)
    distiller = Distillation(conf(joint_forward=True), student_model=model)
    statistics = model.get_layer("norm").moving_mean
    with distiller, tf.GradientTape():
        output = model(X[:8], training=True)
        before = statistics.numpy()
        distiller.on_after_compute_loss(X[:8], output, tf.reduce_mean(output), target_input=TARGET[:6])
    both = model.get_layer("body")(np.concatenate([X[:8], TARGET[:6]])).numpy().mean(0)
    np.testing.assert_allclose(statistics.numpy(), 0.99 * before + 0.01 * both, rtol=1e-4)


def test_labelled_rows_of_the_target_count() -> None:
    model = plain()
    distiller = Distillation(conf({"entropy": {}}), student_model=model)
    labels = np.array([1, -100, 3, -100, -100, -100])
    with distiller, tf.GradientTape():
        output = model(X[:8], training=True)
        given = {"target_input": TARGET[:6], "target_labels": labels}
        distiller.on_after_compute_loss(X[:8], output, tf.constant(0.0), **given)
        told = distiller.losses
    logits = student(dropout=0.0)(TARGET[:6], training=True).numpy()
    expected = -np.mean([log_softmax(logits)[row, labels[row]] for row in (0, 2)])
    assert told["target_CE"] == pytest.approx(expected, rel=1e-5)


def raised(kind: type[Exception], given: Any, **step: Any) -> str:
    model = plain()
    distiller = Distillation(given, student_model=model)
    with pytest.raises(kind) as told, distiller, tf.GradientTape():
        output = model(X[:8], training=True)
        distiller.on_after_compute_loss(X[:8], output, tf.reduce_mean(output), **step)
    return str(told.value).splitlines()[0]


def test_what_can_be_given_wrongly() -> None:
    assert raised(UsageError, conf()) == (
        "domain adaptation needs a batch of the target domain at this step: hand it to the hook, as in "
        "distiller.on_after_compute_loss(x, output, loss, target_input=x_target)"
    )
    path = "domain_adaptation.criterion"
    assert raised(ConfigError, conf({"DANN": {"layer": "rely"}})) == (
        f"<dict>: {path}.DANN.layer: student Sequential has no layer 'rely'"
    )
    assert raised(ConfigError, conf({"ADDA": {"layer": "relu", "encoder": "body"}})) == (
        f"<dict>: {path}.ADDA: ADDA is for PyTorch, and the models are Keras models"
    )
    assert raised(ConfigError, conf(alternating=True)) == (
        "<dict>: domain_adaptation.alternating: alternating steps are for PyTorch, and the models are Keras models"
    )
    assert raised(ModelError, conf(joint_forward=True), target_input={"x": TARGET}) == (
        "joint_forward needs batches of one form: input is a tensor of shape [8, 6] and target_input is a mapping with "
        "the keys 'x'"
    )
