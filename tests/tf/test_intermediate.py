"""The criterion of hidden features: values by hand and by the PyTorch twin, attributes, calls, schedules, weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from kdhooks import Distillation
from kdhooks.errors import UsageError
from kdhooks.torch import IntermediateLayersKnowledgeDistillationLoss as Twin
from kdhooks_tf import IntermediateLayersKnowledgeDistillationLoss
from tests.tf.feature_models import (
    CROSS_ENTROPY,
    KINDS,
    MODES,
    batches,
    distillation,
    from_yaml,
    functional,
    made,
    models,
    stepping,
    subclassed,
    total_of,
    traced,
)


@pytest.mark.parametrize("mode", MODES)
def test_total_and_gradient_are_those_of_a_loop_by_hand(mode: str, tmp_path: Path) -> None:
    student, teacher = models()
    x, y = batches()[0]
    options = "layer_mappings: [[first], [block, '1', block, 1], [head:input, head:input]]\nloss_types: [MSE, L1, KL]\n"
    options += "loss_weights: [0.5, 0.3, 0.2]\nfeature_matchers: [auto, linear, mlp]\nadd_origin_loss: true"

    distiller = from_yaml(tmp_path, options, student, teacher)
    distiller.optimizer = keras.optimizers.SGD(0.0)  # the matchers stay as they are
    with distiller:

        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape() as tape:
                total = total_of(distiller, student, x, y)
            return total, tape.gradient(total, student.trainable_variables)

        assert distiller.criterion.feature_matchers == [None] * 3
        total, found = traced(step, mode)(x, y)
        losses = distiller.losses
        matchers = distiller.criterion.feature_matchers
    assert list(losses) == ["CE", "MSE[first]", "L1[block]", "KL[head]", "total"]
    with tf.GradientTape() as tape:
        sides = []
        for model in (student, teacher):
            first = model.first(x)
            last, once = model.block(tf.tanh(first))
            sides.append([first, once, last])
        mine = [matcher(one, two)[0] for matcher, one, two in zip(matchers, *sides, strict=True)]
        theirs = [tf.stop_gradient(feature) for feature in sides[1]]
        by_hand = CROSS_ENTROPY(y, student.head(sides[0][2]))
        by_hand += 0.5 * tf.reduce_mean(tf.square(mine[0] - theirs[0]))
        by_hand += 0.3 * tf.reduce_mean(tf.abs(mine[1] - theirs[1]))
        p, log_q = tf.nn.softmax(theirs[2]), tf.nn.log_softmax(mine[2])
        by_hand += 0.2 * tf.reduce_mean(tf.reduce_sum(p * (tf.nn.log_softmax(theirs[2]) - log_q), -1))
    np.testing.assert_allclose(total, by_hand, rtol=1e-5)
    for one, other in zip(found, tape.gradient(by_hand, student.trainable_variables), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
def test_value_and_gradient_are_those_of_the_twin(kind: str, mode: str) -> None:
    """A pair with an identity matcher and MSE, in float64."""
    generator = np.random.default_rng(5)
    values = {name: generator.normal(size=size) for name, size in (("s", (6, 8)), ("t", (6, 8)), ("x", (5, 6)))}
    sides = []
    for side in "st":
        linear = torch.nn.Linear(6, 8, bias=False, dtype=torch.float64)
        linear.weight.data = torch.from_numpy(values[side].T.copy())
        sides.append(torch.nn.Sequential(linear, torch.nn.Tanh()))
    x = torch.from_numpy(values["x"])
    theirs = Distillation(student_model=sides[0], teacher_model=sides[1])
    theirs.criterion = Twin([["0"]], feature_matchers="identity", add_origin_loss=True)
    with theirs:
        output = sides[0](x)
        expected = theirs.on_after_compute_loss(x, output, output.square().mean())
        expected.backward()

    class Sub(keras.Model):
        def __init__(self) -> None:
            super().__init__(dtype="float64")
            self.first = keras.layers.Dense(8, use_bias=False, dtype="float64", name="first")

        def call(self, x: Any) -> Any:
            return tf.tanh(self.first(x))

    def model(value: Any) -> Any:
        given = keras.Input((6,), dtype="float64")
        dense = keras.layers.Dense(8, use_bias=False, dtype="float64", name="first")
        tanh = keras.layers.Activation("tanh", dtype="float64")
        if kind == "functional":
            found: Any = keras.Model(given, tanh(dense(given)))
        else:
            found = Sub() if kind == "subclassed" else keras.Sequential([given, dense, tanh])
            found(tf.zeros([1, 6], tf.float64))
        found.weights[0].assign(value)
        return found

    student = model(values["s"])
    ours = Distillation(student_model=student, teacher_model=model(values["t"]))
    options: Any = {"feature_matchers": "identity", "add_origin_loss": True}
    ours.criterion = IntermediateLayersKnowledgeDistillationLoss([["first"]], **options)

    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            output = student(x, training=True)
            total = ours.on_after_compute_loss(x, output, tf.reduce_mean(tf.square(output)))
        return total, tape.gradient(total, student.trainable_variables)

    with ours:
        total, (gradient,) = traced(step, mode)(tf.constant(values["x"]))
    weight: Any = sides[0][0].weight.grad
    np.testing.assert_allclose(float(total), float(expected.detach()), rtol=1e-9)
    np.testing.assert_allclose(gradient, weight.numpy().T, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("origin", [True, False])
def test_the_loops_own_loss_counts_where_it_is_asked_for(origin: bool) -> None:
    student, teacher = models()
    with distillation(student, teacher, keras.optimizers.SGD(0.1), add_origin_loss=origin) as distiller:
        with tf.GradientTape():
            total = total_of(distiller, student, *batches()[0])
        losses = distiller.losses
    expected = origin * losses["CE"] + losses["MSE[first]"] + 0.5 * losses["MSE[head]"]
    assert float(total) == pytest.approx(expected, rel=1e-6)


def test_attributes_and_methods_that_users_know() -> None:
    student, teacher = models()
    loss = IntermediateLayersKnowledgeDistillationLoss(
        layer_mappings_for_knowledge_transfer=[["first", "first"], ("block", "1", "block", "1")],
        loss_types=["MSE", "L1"],
        loss_weights=[0.25, 2.0],
    )
    assert loss.layer_mappings == [["first", "first"], ["block", "block"]]
    assert loss.layer_output_process == [["", ""], ["1", "1"]]
    assert loss.loss_types == ("MSE", "L1") and [weight(0) for weight in loss.loss_weights] == [0.25, 2.0]
    assert loss.feature_matchers == [None, None] and loss.student_features == loss.teacher_features == {}
    assert loss.training is None and list(loss.parameters()) == []
    with pytest.raises(UsageError, match=r"^no models are set: student_model and teacher_model come before"):
        loss.on_train_begin()
    optimizer = keras.optimizers.SGD(0.05)
    student.compile(optimizer)
    loss.student_model, loss.teacher_model = student, teacher
    loss.on_train_begin()
    x = batches()[0][0]
    values = []
    for _ in range(15):
        with tf.GradientTape() as tape:
            student(x, training=True)
            features = loss.teacher_model_forward(x)
            assert list(features) == ["first", "block"] and list(loss.student_features) == ["first", "block"]
            total = loss.loss_cal()
        assert loss.teacher_features == {}
        variables = student.first.trainable_variables + student.block.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(total, variables), variables, strict=True))
        values.append(float(total))
    assert values[-1] < 0.8 * values[0]
    assert [type(matcher).__name__ for matcher in loss.feature_matchers] == ["Matcher", "Matcher"]
    assert [type(one).__name__ for _, one in loss.training.groups] == ["SGD"] and len(list(loss.parameters())) == 4
    one, other = loss.init_feature_matcher(tf.zeros([2, 8]), tf.zeros([2, 12]))(tf.zeros([2, 8]), tf.zeros([2, 12]))
    assert one.shape == other.shape == (2, 12)
    with pytest.raises(UsageError, match=r"^teacher_model_forward\(input\) comes before loss_cal\(\)$"):
        loss.loss_cal()
    loss.init_loss_funcs()
    loss.on_train_end()
    assert not any("call" in vars(layer) for model in (student, teacher) for layer in model._flatten_layers())


@pytest.mark.parametrize(("calls", "count"), [("last", 1), ("first", 1), ("mean", 1), ("all", 2)])
def test_a_layer_that_is_called_twice(calls: str, count: int) -> None:
    student, teacher = made(subclassed, 8, 1), made(subclassed, 8, 2)
    options = {"layer_mappings": [{"student": "block.layer", "teacher": "block/layer", "calls": calls}]}
    x, y = batches()[0]
    with distillation(student, teacher, loss_weights=[1.0], **options) as distiller:
        with tf.GradientTape():
            total_of(distiller, student, x, y)
        found = distiller.losses["MSE[block.layer]"]
    sides = []
    for model in (student, teacher):
        one = model.block.layer(tf.tanh(model.first(x)))
        sides.append([one, model.block.layer(tf.tanh(one))])
    chosen = {"last": slice(1, 2), "first": slice(0, 1), "mean": slice(None), "all": slice(None)}[calls]
    mine, theirs = (tf.stack(side[chosen]) for side in sides)
    if calls == "mean":
        mine, theirs = tf.reduce_mean(mine, 0), tf.reduce_mean(theirs, 0)
    assert len(sides[0][chosen]) == (2 if calls == "mean" else count)
    assert found == pytest.approx(float(tf.reduce_mean(tf.square(mine - theirs))), rel=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_weights_that_are_schedules_trace_nothing_again(mode: str) -> None:
    student, teacher = made(functional, 8, 1), made(functional, 8, 2)
    optimizer = keras.optimizers.SGD(0.0)
    ramp = {"linear": {"from": 0.0, "to": 1.0, "steps": 4}}
    distiller = distillation(student, teacher, optimizer, loss_weights=[ramp, 0.5])
    x, y = batches()[0]
    with distiller:
        step = stepping(distiller, student, optimizer, mode)
        totals = [float(step(x, y)[0]) for _ in range(6)]
        losses = distiller.losses
        if mode != "eager":
            assert step.experimental_get_tracing_count() <= 2  # the optimizer makes its variables in the first
    expected = [
        losses["CE"] + weight * losses["MSE[first]"] + 0.5 * losses["MSE[head]"]
        for weight in (0, 0.25, 0.5, 0.75, 1, 1)
    ]
    np.testing.assert_allclose(totals, expected, rtol=1e-5)


def test_a_python_schedule_is_refused_in_a_graph() -> None:
    student, teacher = models()
    distiller = distillation(student, teacher, keras.optimizers.SGD(0.1), loss_weights=[half, 0.5])
    with distiller:
        with tf.GradientTape():
            total_of(distiller, student, *batches()[0])
        with pytest.raises(UsageError) as caught:
            stepping(distiller, student, keras.optimizers.SGD(0.1), "graph")(*batches()[0])
    assert str(caught.value).splitlines()[-1] == (
        "the schedule half is a Python function, which a tf.function calls only once, when it is traced. Write it as "
        "linear, cosine, exponential, warmup or piecewise, or run the step eagerly"
    )


def half(step: int) -> float:
    return 0.5
