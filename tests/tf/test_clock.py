"""Counting without waiting, and functions that were traced in a run that is over."""

from __future__ import annotations

import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.check.advice import advice
from kdhooks.errors import UsageError
from kdhooks_tf import clock as room
from tests.tf.loop_models import Loop, classifier, kd_conf

OVER = (
    "this tf.function was traced in a run that is over, and would go on with the schedules, teachers and matchers of "
    "that run: make it anew, with tf.function(...), after on_train_begin()"
)


@pytest.mark.parametrize("mode", ["graph", "compiled"])
def test_a_function_of_an_earlier_run_is_refused(mode: str) -> None:
    student = classifier(1)
    distiller = Distillation(kd_conf(), student_model=student, teacher_model=classifier(2))
    distiller.on_train_begin()
    loop = Loop(student, mode, distiller=distiller)
    loop.run(3)
    for _ in range(2):
        distiller.on_train_begin()
        with pytest.raises(UsageError) as caught:
            loop.run(1)
        assert str(caught.value) == OVER
        assert distiller.step == 0
    Loop(student, mode, distiller=distiller).run(2)
    assert distiller.step == 2
    distiller.on_train_end()
    with pytest.raises(UsageError):
        loop.run(1)


def test_setting_the_step_reads_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    student = classifier(1)
    with Distillation(kd_conf(), student_model=student, teacher_model=classifier(2)) as distiller:
        loop = Loop(student, "graph", distiller=distiller)
        loop.run(2)

        def refuse(variable: object) -> None:
            raise AssertionError("a variable was read")

        with monkeypatch.context() as patch:
            patch.setattr(room, "copies", refuse)
            distiller.on_step_begin(7)
            distiller.on_step_begin(tf.constant(8))
            loop.run(1)
        assert distiller.step == 9


def test_advice_is_in_keras_words() -> None:
    assert advice("unfreeze", "tensorflow") == "layer.trainable = True for those that shall learn"
    assert advice("unfreeze", "pytorch") == "parameter.requires_grad_(True) for those that shall learn"
