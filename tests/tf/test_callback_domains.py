"""Domain adaptation inside of ``model.fit``, with the target's batches beside Keras' own."""

from __future__ import annotations

import functools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.errors import UsageError
from kdhooks_tf import DistillationCallback
from tests.tf.callback_models import compiled, data, fit, nothing_of_ours, student, weights

# Keras converts its own variables in a way that NumPy 2 complains of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

X, Y = data(18, seed=5)
ADAPTERS = {"DANN": {"layer": "relu", "hidden_size": 8}, "entropy": {"weight": 0.5}}


def conf(**options: Any) -> dict[str, Any]:
    return {"domain_adaptation": {"criterion": ADAPTERS, "reversal": {"steps": 10}, **options}}


def target(*, labelled: bool = False) -> Any:
    return tf.data.Dataset.from_tensor_slices((X, Y) if labelled else X).batch(6)


def trained(given: dict[str, Any] | None = None, *, labelled: bool = False, **options: Any) -> tuple[Any, Any]:
    model = compiled(student(dropout=0.0), **options)
    callback = DistillationCallback(Distillation(conf() if given is None else given), target=target(labelled=labelled))
    return model, fit(model, callback)


@functools.cache
def plain() -> tuple[Any, Any]:
    """What Keras' own way of running steps makes, once for all tests."""
    return trained(metrics=["accuracy"])


def test_a_fit_makes_the_steps_of_a_loop() -> None:
    model, history = plain()
    assert set(history) == {
        "loss", "accuracy", "distillation/CE", "distillation/DANN", "distillation/DANN.domain_accuracy",
        "distillation/entropy",
    }  # fmt: skip
    assert nothing_of_ours(model)

    twin, optimizer = student(dropout=0.0), keras.optimizers.SGD(0.1, momentum=0.9)
    optimizer.build(twin.trainable_variables)
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    rows, labels = data()
    others = [X[:6], X[6:12], X[12:], X[:6], X[6:12], X[12:]]
    with Distillation(conf(), student_model=twin) as distiller:
        distiller.optimizer = optimizer
        distiller.on_train_begin(optimizer=optimizer)
        for number, first in enumerate([0, 8, 16, 0, 8, 16]):
            x, y = tf.constant(rows[first : first + 8]), labels[first : first + 8]
            with tf.GradientTape() as tape:
                output = twin(x, training=True)
                total = distiller.on_after_compute_loss(
                    x, output, cross_entropy(y, output), target_input=tf.constant(others[number])
                )
            optimizer.apply(tape.gradient(total, twin.trainable_variables), twin.trainable_variables)
    for one, other in zip(weights(model), weights(twin), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_several_compiled_steps_in_one_execution_are_the_same() -> None:
    expected, whole = plain()
    model, history = trained(jit_compile=True, steps_per_execution=2)
    np.testing.assert_allclose(history["distillation/DANN"], whole["distillation/DANN"], rtol=1e-5)
    for one, other in zip(weights(model), weights(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_labels_of_the_target_train_only_where_that_is_asked_for() -> None:
    _, without = trained(labelled=True, run_eagerly=True)
    _, with_labels = trained(conf(target_labels=True), labelled=True, run_eagerly=True)
    assert "distillation/target_CE" not in without and "distillation/target_CE" in with_labels


def test_a_target_that_is_missing_or_no_dataset() -> None:
    model = compiled(student())
    with pytest.raises(UsageError) as told:
        fit(model, DistillationCallback(Distillation(conf())))
    assert str(told.value) == (
        "domain adaptation needs batches of the target domain, and this fit has none: "
        "DistillationCallback(distiller, target=dataset), or domain_adaptation.dataloader"
    )
    assert nothing_of_ours(model)
    with pytest.raises(UsageError) as told:
        DistillationCallback(Distillation(conf()), target=X)
    assert str(told.value) == (
        "the target of a DistillationCallback is a tf.data.Dataset of batches, not ndarray: "
        "tf.data.Dataset.from_tensor_slices(x_target).shuffle(len(x_target)).batch(32)"
    )
    with pytest.raises(UsageError) as told:
        DistillationCallback(Distillation(conf()), target=tf.data.Dataset.range(3))
    assert str(told.value) == "the target dataset of a DistillationCallback has single samples: add .batch(32)"
