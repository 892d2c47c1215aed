"""Pairs of several layers a side: fsp and review against the losses themselves, matchers, resume."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.errors import ModelError
from kdhooks_tf import IntermediateLayersKnowledgeDistillationLoss, SelfKnowledgeDistillationLoss
from kdhooks_tf.losses import ReviewKD, fsp
from tests.tf.feature_models import MODES, all_equal, arrays, made, traced

BOTH = {"student_layers": ["stem", "block1"], "teacher_layers": ["stem", "block2"]}
ALL = {"student_layers": "block{i}", "teacher_layers": "block{i}", "i": "1..2"}
X = tf.sin(tf.reshape(tf.linspace(-1.0, 1.0, 2 * 6 * 6 * 3), [2, 6, 6, 3]))


def maps(width: int = 4) -> Any:
    """Images to logits through a stem and two blocks, the second of half the space."""
    x = keras.Input((6, 6, 3))
    found = keras.layers.Conv2D(width, 3, padding="same", name="stem")(x)
    found = keras.layers.Conv2D(width, 3, padding="same", name="block1")(keras.ops.tanh(found))
    found = keras.layers.Conv2D(width, 3, 2, padding="same", name="block2")(keras.ops.tanh(found))
    return keras.Model(x, keras.layers.Dense(5, name="head")(keras.ops.mean(keras.ops.tanh(found), (1, 2))))


def features(model: Any, *names: str) -> list[Any]:
    """What a plain loop of one's own would look at."""
    found: list[Any] = keras.Model(model.input, [model.get_layer(name).output for name in names])(X)
    return found


def distillation(student: Any, teacher: Any, mappings: Any, **options: Any) -> Distillation:
    distiller = Distillation(student_model=student, teacher_model=teacher)
    given = {"loss_types": "fsp", "loss_weights": 1.0, **options}
    distiller.criterion = IntermediateLayersKnowledgeDistillationLoss(mappings, **given)
    return distiller


def step_of(distiller: Distillation, student: Any, optimizer: Any = None) -> Any:
    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            output = student(x, training=True)
            total = distiller.on_after_compute_loss(x, output, tf.reduce_mean(tf.square(output)))
        gradients = tape.gradient(total, student.trainable_variables)
        if optimizer is not None:
            pairs = zip(gradients, student.trainable_variables, strict=True)
            optimizer.apply_gradients([(one, to) for one, to in pairs if one is not None])
        return gradients

    return step


@pytest.mark.parametrize("mode", MODES)
def test_fsp_equals_the_loss_itself_in_value_and_gradient(mode: str) -> None:
    student, teacher = made(maps, 4, 1), made(maps, 4, 2)
    with distillation(student, teacher, [BOTH]) as distiller:
        found = traced(step_of(distiller, student), mode)(X)
        losses = distiller.losses
        assert list(losses) == ["CE", "fsp[stem..block1]", "total"]
        assert distiller.criterion.layer_mappings == [[["stem", "block1"], ["stem", "block2"]]]
        assert distiller.criterion.layer_output_process == [[["", ""], ["", ""]]]
    with tf.GradientTape() as tape:
        direct = fsp(features(student, "stem", "block1"), features(teacher, "stem", "block2"))
    assert losses["fsp[stem..block1]"] == pytest.approx(float(direct), rel=1e-5)
    np.testing.assert_allclose(found[0], tape.gradient(direct, student.trainable_variables)[0], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_review_equals_the_loss_itself_and_its_parameters_train(mode: str) -> None:
    student, teacher = made(maps, 4, 1), made(maps, 6, 2)
    optimizer = keras.optimizers.SGD(0.1)
    distiller = distillation(student, teacher, [ALL], loss_types="review")
    distiller.optimizer = optimizer
    review = ReviewKD([(2, 6, 6, 4), (2, 3, 3, 4)], [(2, 6, 6, 6), (2, 3, 3, 6)])
    expected = float(review(features(student, "block1", "block2"), features(teacher, "block1", "block2")))
    with distiller:
        step, found = traced(step_of(distiller, student, optimizer), mode), []
        for _ in range(4):
            step(X)
            found.append(distiller.losses["review[block1..block2]"])
        parameters = list(distiller.parameters())
        assert distiller.criterion.feature_matchers == [None]
    assert found[0] == pytest.approx(expected, rel=1e-5) and found[-1] < found[0]
    assert len(parameters) == len(review.trainable_variables)
    assert not all_equal(arrays(parameters), arrays(review.trainable_variables))


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_matchers_of_several_layers_train_and_resume(mode: str) -> None:
    student, teacher = made(maps, 4, 1), made(maps, 6, 2)
    mapping = BOTH | {"teacher_layers": ["stem", "block1"]}
    options = {"feature_matchers": "conv1x1", "add_origin_loss": True}
    optimizer = keras.optimizers.SGD(1e-4)
    distiller = distillation(student, teacher, [mapping], **options)
    distiller.optimizer = optimizer
    with distiller:
        step, losses = traced(step_of(distiller, student, optimizer), mode), []
        for _ in range(4):
            step(X)
            losses.append(distiller.losses["fsp[stem..block1]"])
        (matchers,) = distiller.criterion.feature_matchers
        weights = [variable for matcher in matchers for variable in matcher.variables]
        assert losses[-1] < losses[0] and [list(one.shape) for one in weights[::2]] == [[4, 6], [4, 6]]
        state, values = distiller.state_dict(), arrays(weights)
    again = distillation(student, teacher, [mapping], **options)
    again.optimizer = keras.optimizers.SGD(0.05)
    again.load_state_dict(state)
    with again:
        assert all_equal(values, arrays(list(again.parameters())))


def test_self_distillation_takes_several_layers_too() -> None:
    student = made(maps, 4, 1)
    distiller = Distillation(student_model=student)
    group = [{"student_layers": ["stem", "stem"], "teacher_layers": ["block1", "block1"]}]
    distiller.criterion = SelfKnowledgeDistillationLoss([group], loss_types="fsp", add_origin_loss=True)
    with distiller:
        step_of(distiller, student)(X)
        stem, block = features(student, "stem", "block1")
        assert distiller.losses["fsp[stem]"] == pytest.approx(float(fsp([stem, stem], [block, block])), rel=1e-5)


def test_layers_that_do_not_go_together_are_told_where_they_stand() -> None:
    student, teacher = made(maps, 4, 1), made(maps, 6, 2)
    with distillation(student, teacher, [BOTH]) as distiller, pytest.raises(ModelError) as caught:
        step_of(distiller, student)(X)
    assert str(caught.value) == (
        "layer_mappings[0]: pair ['stem', 'block1'] -> ['stem', 'block2']: the loss 'fsp' needs the same channels in "
        "both pairs of maps; the student's feature has shape [2, 4, 4] and the teacher's [2, 6, 6]"
    )
