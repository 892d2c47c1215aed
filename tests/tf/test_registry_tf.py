"""Losses of a user's own under sample weights, and what is refused for Keras models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation, registry
from kdhooks.errors import ConfigError, UsageError
from kdhooks_tf import IntermediateLayersKnowledgeDistillationLoss, KnowledgeDistillationLoss
from tests.tf.loop_models import batches, classifier

pytestmark = pytest.mark.usefixtures("registrations_end_with_the_test")

STUDENT, TEACHER = (np.random.default_rng(seed).normal(size=(5, 3)).astype("float32") for seed in (1, 2))
WEIGHTS = np.array([0.0, 1.0, 2.0, 0.5, 1.0], "float32")


def weighted(student: Any, teacher: Any, *, sample_weight: Any = None) -> Any:
    rows = tf.reduce_sum(tf.square(student - teacher), axis=-1)
    return tf.reduce_mean(rows if sample_weight is None else rows * sample_weight)


def unweighted(student: Any, teacher: Any) -> Any:
    return weighted(student, teacher)


def value(name: str, sample_weight: Any = None) -> float:
    criterion = KnowledgeDistillationLoss(1.0, ["CE", name], [0, 1])
    return float(criterion(tf.constant(STUDENT), tf.constant(TEACHER), sample_weight=sample_weight))


def test_a_registered_loss_on_logits_gets_the_weights_that_it_takes() -> None:
    registry.register_loss("mine", weighted)
    rows = np.square(STUDENT - TEACHER).sum(1)
    assert value("mine") == pytest.approx(float(rows.mean()), rel=1e-6)
    assert value("mine", WEIGHTS) == pytest.approx(float((rows * WEIGHTS).mean()), rel=1e-6)


def test_weights_are_never_dropped_in_silence() -> None:
    registry.register_loss("plain", unweighted)
    assert value("plain") > 0
    with pytest.raises(UsageError) as caught:
        value("plain", WEIGHTS)
    message = "the loss 'plain' takes no sample_weight: give it such an argument, or none here"
    assert str(caught.value) == message
    distiller = Distillation(student_model=classifier(0), teacher_model=classifier(1))
    distiller.criterion = IntermediateLayersKnowledgeDistillationLoss([[""]], "plain", feature_matchers="identity")
    x, y = batches(1)[0]
    with distiller, tf.GradientTape():
        output = distiller.student_model(x, training=True)
        with pytest.raises(UsageError) as caught:
            distiller.on_after_compute_loss(x, output, tf.reduce_mean(output), sample_weight=tf.ones([len(y)]))
    assert str(caught.value) == message


def test_the_criterion_of_large_vocabularies_is_refused(tmp_path: Any) -> None:
    path = tmp_path / "kd.yaml"
    path.write_text(
        "distillation:\n  train:\n    criterion:\n      LargeVocabularyDistillationLoss: {student_head: head, "
        "teacher_head: head}\n"
    )
    distiller = Distillation(path, student_model=classifier(0), teacher_model=classifier(1))
    with pytest.raises(ConfigError) as caught:
        distiller.on_train_begin()
    assert str(caught.value).splitlines()[0] == (
        f"{path}:4:7: distillation.train.criterion.LargeVocabularyDistillationLoss: "
        "LargeVocabularyDistillationLoss is for PyTorch, and the models are Keras models"
    )
