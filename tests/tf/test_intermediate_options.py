"""The criterion of hidden features: samples' weights, balance, losses of the library, patterns, runs, precision."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.errors import ModelError, UsageError
from tests.tf.feature_models import (
    CROSS_ENTROPY,
    MODES,
    all_equal,
    arrays,
    batches,
    criterion,
    distillation,
    from_yaml,
    functional,
    made,
    models,
    stepping,
    subclassed,
    total_of,
    traced,
    train,
)


@pytest.mark.parametrize("mode", MODES)
def test_sample_weights_reach_losses_that_are_means_over_rows(mode: str) -> None:
    student, teacher = made(subclassed, 8, 1), made(subclassed, 8, 2)
    x, y = batches()[0]
    weights = tf.constant([0.0, 0.0, 3.0, 1.0, 0.0, 2.0, 0.0, 0.0])
    with distillation(student, teacher, layer_mappings=[["first"]], loss_weights=[1.0]) as distiller:

        def step(x: Any, y: Any, w: Any) -> Any:
            with tf.GradientTape():
                output = student(x, training=True)
                loss = CROSS_ENTROPY(y, output)
                return distiller.on_after_compute_loss(x, output, loss, sample_weight=w)

        traced(step, mode)(x, y, weights)
        found = distiller.losses["MSE[first]"]
    rows = tf.reduce_mean(tf.square(student.first(x) - teacher.first(x)), 1)
    assert found == pytest.approx(float(tf.reduce_sum(weights * rows) / 8), rel=1e-5)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_balance_makes_both_gradients_equally_long(mode: str) -> None:
    student, teacher = made(functional, 8, 1), made(functional, 8, 2)
    x, y = batches()[0]
    distiller = distillation(student, teacher, layer_mappings=[["first"]], loss_weights=[1.0], balance="gradient")
    with distiller:

        def step(x: Any, y: Any) -> Any:
            with tf.GradientTape():
                return total_of(distiller, student, x, y)

        total = traced(step, mode)(x, y)
        losses = distiller.losses
        with pytest.raises(UsageError, match=r"^balance: gradient needs the step inside of a tf\.function"):
            step(x, y)
    with tf.GradientTape(persistent=True) as tape:
        hidden = student.layers[1](x)
        tape.watch(hidden)
        own = CROSS_ENTROPY(y, student.layers[3](student.layers[2](hidden)))
        pair = tf.reduce_mean(tf.square(hidden - teacher.layers[1](x)))
    ratio = tf.norm(tape.gradient(own, hidden)) / tf.norm(tape.gradient(pair, hidden))
    assert float(total) == pytest.approx(losses["CE"] + float(ratio) * losses["MSE[first]"], rel=1e-4)


@pytest.mark.parametrize("loss", ["rkd", "pkt", "similarity_preserving", "cosine", "hint", "vid"])
def test_losses_of_the_library_with_their_parameters(loss: str) -> None:
    student, teacher = models()
    optimizer = keras.optimizers.SGD(0.01)
    options = {"layer_mappings": [["first"]], "loss_types": [loss], "loss_weights": [1.0]}
    distiller = distillation(student, teacher, optimizer, **options)
    with distiller:
        step = stepping(distiller, student, optimizer, "graph")
        train(distiller, step, 1, f"{loss}[first]")
        begun = arrays(distiller.parameters())
        train(distiller, step, 3, f"{loss}[first]")
        owned = arrays(distiller.parameters())
        assert bool(owned) == (loss in ("cosine", "hint", "vid"))
        assert not any(map(np.array_equal, begun, owned))


def test_patterns_and_one_loss_for_all(tmp_path: Path) -> None:
    def deep(seed: int) -> Any:
        dense = [keras.layers.Dense(6, name=f"layer{index}") for index in range(6)]
        return made(lambda width: keras.Sequential([keras.Input((6,)), *dense]), 6, seed)

    options = "layer_mappings: [{student: 'layer{i}', teacher: 'layer{2*i+1}', i: 0..2}, ['']]\n"
    options += "loss_types: [{cosine: {}}, MSE]"
    student, (x, _) = deep(1), batches()[0]
    with from_yaml(tmp_path, options, student, deep(2)) as distiller:
        with tf.GradientTape():
            distiller.on_after_compute_loss(x, student(x), tf.zeros([]))
        names = list(distiller.losses)
        assert names == ["CE", "cosine[layer0]", "cosine[layer1]", "cosine[layer2]", "MSE[root]", "total"]
        assert [weight(0) for weight in distiller.criterion.loss_weights] == [0.25] * 4


def test_second_run_and_deepcopy_begin_anew() -> None:
    student, teacher = models()
    optimizer = keras.optimizers.SGD(0.1)
    distiller = distillation(student, teacher, optimizer)
    begun = []
    for _ in range(2):
        with distiller:
            step = stepping(distiller, student, optimizer)
            step(*batches()[0])
            begun.append(distiller.criterion.training)
        assert not any("call" in vars(layer) for model in (student, teacher) for layer in model._flatten_layers())
    assert begun[0] is not begun[1]
    twin = copy.deepcopy(distiller.criterion)
    assert twin.layer_mappings == distiller.criterion.layer_mappings and twin.training is None
    assert twin is not distiller.criterion and twin.add_origin_loss


def test_two_criteria_share_the_forwards() -> None:
    student, teacher = models()
    optimizer = keras.optimizers.SGD(0.05)
    distiller = Distillation(student_model=student, teacher_model=teacher)
    distiller.optimizer = optimizer
    distiller.criterion = [
        criterion(layer_mappings=[["first"]], loss_weights=[1.0]),
        criterion(layer_mappings=[["head"]], loss_weights=[1.0], add_origin_loss=False, feature_matchers="linear"),
    ]
    with distiller:
        losses = train(distiller, stepping(distiller, student, optimizer, "graph"), 12)
        names = list(distiller.losses)
        one, other = ([len(group) for group, _ in each.training.groups] for each in distiller.criterion)
    assert names == ["CE", "MSE[first]", "MSE[head]", "total"] and one == other == [2] and losses[-1] < losses[0]


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_mixed_precision_computes_matchers_in_half_and_keeps_float32_weights(mode: str) -> None:
    def model(width: int) -> Any:
        x = keras.Input((6,))
        hidden = keras.layers.Dense(width, name="first", dtype="mixed_bfloat16")(x)
        return keras.Model(x, keras.layers.Dense(4, name="head", dtype="float32")(hidden))

    student, teacher = made(model, 8, 1), made(model, 12, 2)
    optimizer = keras.optimizers.SGD(0.05)
    with distillation(student, teacher, optimizer) as distiller:
        step = stepping(distiller, student, optimizer, mode)
        before = train(distiller, step, 1)
        weights = arrays(distiller.parameters())
        losses = train(distiller, step, 9)
        assert {variable.dtype for variable in distiller.parameters()} == {"float32"}
        assert not all_equal(weights, arrays(distiller.parameters())) and losses[-1] < before[0]


def test_several_calls_of_different_number_are_told() -> None:
    class Once(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.block = keras.layers.Dense(8, name="layer")

        def call(self, x: Any) -> Any:
            return self.block(x)

    student, teacher = Once(), made(subclassed, 8, 2)
    student(tf.zeros([1, 6]))
    options = {"layer_mappings": [{"student": "block", "teacher": "block.layer", "calls": "all"}]}
    distiller = distillation(student, teacher, loss_weights=[1.0], **options)
    with distiller, tf.GradientTape(), pytest.raises(ModelError) as caught:
        total_of(distiller, student, *batches()[0])
    assert str(caught.value) == (
        "layer_mappings[0]: pair 'block' -> 'block/layer': student Once called its layer 1 times and teacher Net 2 "
        "times. Write calls: last, first or mean."
    )
