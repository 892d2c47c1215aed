"""What can be given wrongly to a fit that distils, word for word."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks.errors import ModelError, UsageError
from kdhooks_tf import DistillationCallback
from tests.tf.callback_models import CLASSES, compiled, data, distiller, features, fit, logits, nothing_of_ours, student

# Keras converts its own variables in a way that NumPy 2 complains of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def says(model: Any, *callbacks: Any, kind: type[Exception] = UsageError, **options: Any) -> str:
    with pytest.raises(kind) as caught:
        fit(model, *callbacks, **options)
    assert nothing_of_ours(model)
    return str(caught.value)


def test_a_student_that_is_not_compiled() -> None:
    message = says(student(), DistillationCallback(distiller()), kind=ValueError)
    assert message == "You must call `compile()` before using the model."  # Keras' own, before any callback
    callback = DistillationCallback(distiller())
    callback.set_model(student())
    with pytest.raises(UsageError) as caught:
        callback.on_train_begin()
    assert str(caught.value) == "the model 'student' is not compiled: model.compile(...) comes before fit()"


def test_a_student_that_is_not_built() -> None:
    model = compiled(
        keras.Sequential([keras.layers.Dense(8, name="body"), keras.layers.Dense(CLASSES)], name="student")
    )
    message = says(model, DistillationCallback(distiller(features())), kind=ModelError)
    assert message == (
        "student Sequential is not built, so its layers have no weights yet: call it once on a batch, "
        "or model.build(input_shape), before distillation begins"
    )
    assert "distillation/KL" in fit(
        model, DistillationCallback(distiller())
    )  # logits need no layers, and fit builds it


def test_another_model_than_the_distillers() -> None:
    one, other = compiled(student()), compiled(keras.Sequential([keras.layers.Dense(CLASSES)], name="other"))
    message = says(other, DistillationCallback(distiller(student_model=one)))
    assert message == (
        "this fit trains the model 'other', and the distiller's student_model is another model, 'student': "
        "fit that one, or leave student_model unset"
    )
    assert "distillation/KL" in fit(one, DistillationCallback(distiller(student_model=one)))


def test_a_student_that_was_taken_from_a_fit_may_change() -> None:
    one = distiller()
    for _ in range(2):
        model = compiled(student())
        assert "distillation/KL" in fit(model, DistillationCallback(one))
        assert one.student_model is model


def test_two_callbacks_in_one_fit() -> None:
    model = compiled(student())
    with pytest.raises(UsageError) as caught:
        fit(model, DistillationCallback(distiller()), DistillationCallback(distiller()))
    assert str(caught.value) == "the model 'student' has a DistillationCallback in this fit already: give one"
    assert sorted(fit(model)) == ["loss"]
    assert nothing_of_ours(model)


class NoLoss(keras.Model):  # type: ignore[misc]
    """Its train_step never asks for a loss."""

    def __init__(self) -> None:
        super().__init__(name="student")
        self.head = keras.layers.Dense(CLASSES)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.head(inputs)

    def train_step(self, batch: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(self(batch[0], training=True) ** 2)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


@pytest.mark.parametrize("eagerly", [False, True])
def test_a_train_step_that_never_computes_the_loss(eagerly: bool) -> None:
    message = says(compiled(NoLoss(), run_eagerly=eagerly), DistillationCallback(distiller()))
    assert message == (
        "NoLoss.train_step never calls self.compute_loss, where the distillation's loss is added: compute the loss "
        "there with self.compute_loss(x=x, y=y, y_pred=y_pred, sample_weight=sample_weight), or write the loop "
        "yourself and call distiller.on_after_compute_loss in it"
    )


def test_a_schedule_that_is_a_python_function() -> None:
    conf = logits()
    one = distiller(conf)
    one.conf.distillation.train.criterion.KnowledgeDistillationLoss.loss_weights = [0.5, lambda step: 0.5]
    message = says(compiled(student()), DistillationCallback(one))
    assert "is a Python function, which a tf.function calls only once, when it is traced" in message
    assert len(fit(compiled(student(), run_eagerly=True), DistillationCallback(one))["distillation/KL"]) == 2


@pytest.mark.parametrize("backend", ["torch"])
def test_keras_on_another_backend(backend: str) -> None:
    program = (
        "from kdhooks import KDHooksError\n"
        "from kdhooks_tf import DistillationCallback\n"
        "try:\n"
        "    DistillationCallback(None)\n"
        "except KDHooksError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == (
        f"DistillationCallback needs Keras on TensorFlow, and this Keras runs on {backend}: "
        "set KERAS_BACKEND=tensorflow before keras is imported\n"
    )


def test_importing_kdhooks_tf_imports_no_framework() -> None:
    program = "import sys, kdhooks_tf; print([name for name in ('keras', 'tensorflow') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_target_without_labels_is_no_target() -> None:
    """A regression has none, and losses that look at no label don't ask."""
    x, _ = data()
    y = np.zeros((len(x), CLASSES + 3), "float32")
    keras.utils.set_random_seed(0)
    head = keras.layers.Dense(CLASSES)
    inputs = keras.Input((6,))
    hidden = head(inputs)

    def loss(y_true: Any, y_pred: Any) -> Any:
        return tf.reduce_mean(y_true, -1) + tf.reduce_mean(y_pred**2, -1)

    model = compiled(keras.Model(inputs, hidden, name="student"), loss=loss)
    assert "distillation/KL" in fit(model, DistillationCallback(distiller()), x=x, y=y)
