"""Teacher features that the loop has already: handed in by layer, with and without a teacher model."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation, KDHooksError
from kdhooks_tf import KnowledgeDistillationLoss
from tests.tf.feature_models import CROSS_ENTROPY, batches, criterion, made, models, subclassed
from tests.tf.test_several_layers import BOTH, X, distillation, features, maps

(ROWS, Y), *_ = batches()
MODES = ["eager", "graph"]


def still(distiller: Distillation) -> Distillation:
    """The same, with matchers that stay as they are."""
    distiller.optimizer = keras.optimizers.SGD(0.0)
    return distiller


def losses(distiller: Distillation, mode: str = "eager", **given: Any) -> dict[str, float]:
    student = distiller.student_model

    def step(given: Any) -> Any:
        with tf.GradientTape():
            output = student(ROWS, training=True)
            return distiller.on_after_compute_loss(ROWS, output, CROSS_ENTROPY(Y, output), **given)

    (step if mode == "eager" else tf.function(step))(given)
    return distiller.losses


def stored_of(teacher: Any) -> dict[str, Any]:
    return {"first": teacher.first(ROWS), "head": teacher(ROWS)}


@pytest.mark.parametrize("mode", MODES)
def test_they_give_the_losses_of_the_teacher_which_does_not_run(mode: str) -> None:
    student, teacher = models()
    stored, ran = stored_of(teacher), []
    distiller = Distillation(student_model=student, teacher_model=teacher)
    distiller.criterion = criterion()
    with still(distiller):
        expected = pytest.approx(losses(distiller, mode), rel=1e-6)
        call = teacher.block.call
        teacher.block.call = lambda x, **given: ran.append(1) or call(x)  # type: ignore[func-returns-value]
        try:
            assert losses(distiller, mode, teacher_features=stored) == expected and ran == []
            losses(distiller, mode)
            assert ran == [1]
        finally:
            del teacher.block.call
    for kept in (stored, {name: value.numpy() for name, value in stored.items()}):
        alone = Distillation(student_model=student)
        alone.criterion = criterion()
        with still(alone):
            assert losses(alone, mode, teacher_features=kept) == expected


@pytest.mark.parametrize("mode", MODES)
def test_with_stored_logits_no_teacher_is_needed_at_all(mode: str) -> None:
    student, teacher = models()
    stored = stored_of(teacher)
    distiller = Distillation(student_model=student)
    distiller.criterion = [KnowledgeDistillationLoss(2.0), criterion(add_origin_loss=False)]
    with still(distiller):
        found = losses(distiller, mode, teacher_output=stored["head"], teacher_features=stored)
    assert sorted(found) == ["CE", "KL", "MSE[first]", "MSE[head]", "total"]
    p, log_q = tf.nn.softmax(stored["head"] / 2), tf.nn.log_softmax(student(ROWS) / 2)
    divergence = tf.reduce_sum(p * (tf.math.log(p) - log_q), -1)
    assert found["KL"] == pytest.approx(4 * float(tf.reduce_mean(divergence)), rel=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_selectors_inputs_and_several_teachers(mode: str) -> None:
    student, teacher = models()
    distiller = Distillation(student_model=student, teacher_model={"big": teacher, "other": made(subclassed, 8, 3)})
    mappings = [["block", "1", "block", "1"], ["head:input", "head:input"]]
    distiller.criterion = criterion(layer_mappings=mappings, teacher="big", feature_matchers="auto")
    both = teacher.block(tf.tanh(teacher.first(ROWS)))
    with still(distiller):
        expected = pytest.approx(losses(distiller, mode), rel=1e-6)
        for block in (both, both[1]):  # what the layer returned, or what its selector means
            stored = {"big": {"block": block, "head:input": both[0]}}
            assert losses(distiller, mode, teacher_features=stored) == expected


def test_several_layers_a_side() -> None:
    student, teacher = made(maps, 4, 1), made(maps, 4, 2)
    stored = dict(zip(("stem", "block2"), features(teacher, "stem", "block2"), strict=True))
    found = []
    for given in (None, stored):
        with distillation(student, teacher, [BOTH]) as distiller, tf.GradientTape():
            output = student(X, training=True)
            distiller.on_after_compute_loss(X, output, tf.reduce_sum(output), teacher_features=given)
            found.append(distiller.losses)
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_faults() -> None:
    student, teacher = models()
    stored = stored_of(teacher)
    alone = Distillation(student_model=student)
    alone.criterion = criterion()
    for given, message in (
        (
            None,
            "features come from a teacher, and there is none: set teacher_model, or hand teacher_features to "
            "on_after_compute_loss",
        ),
        (
            {"frist": stored["first"], "head": stored["head"]},
            "layer_mappings[0][1]: pair 'first' -> 'first': teacher_features has no layer 'first'. Did you mean "
            "'frist'?",
        ),
        (
            {"first": np.zeros([8, 12], np.int64), "head": stored["head"]},
            "layer_mappings[0][1]: pair 'first' -> 'first': teacher (none is set): layer 'first' gives int64, which "
            "can't be followed. Map a layer whose values are floats.",
        ),
        (
            {"first": 3, "head": stored["head"]},
            "layer_mappings[0][1]: pair 'first' -> 'first': teacher_features of this step: layer 'first' returned a "
            "int, and no selector says which is meant. Write the selector behind the layer, as in [first, '0'].",
        ),
    ):
        with pytest.raises(KDHooksError) as caught, alone:
            losses(alone, teacher_features=given)
        assert str(caught.value) == message
