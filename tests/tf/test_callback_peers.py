"""The faults of ``keras.distillation`` and of tools that distil a Keras model by a wrapper: none of them is here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks_tf import DistillationCallback
from tests.tf.callback_models import (
    CLASSES,
    FEATURES,
    Counter,
    compiled,
    data,
    distiller,
    divergence,
    equal,
    features,
    fit,
    log_softmax,
    logits,
    student,
    teacher,
    weights,
)

# Keras converts its own variables in a way that NumPy 2 complains of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


class Subclassed(keras.Model):  # type: ignore[misc]
    """No functional graph, a nested model, and an argument `training` that matters."""

    def __init__(self) -> None:
        super().__init__(name="student")
        keras.utils.set_random_seed(0)
        self.body = keras.Sequential([keras.layers.Dense(8, name="inner"), keras.layers.BatchNormalization()])
        self.head = keras.layers.Dense(CLASSES)

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.head(tf.nn.relu(self.body(inputs, training=training)))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_default_compares_softened_distributions_and_not_raw_logits(temperature: float) -> None:
    """One SGD step against the gradient by hand: w0 (p - y) + w1 T (p_T - q_T), in NumPy."""
    x, y = data(8)
    teacher_model = teacher()
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)], name="student")
    kernel, bias = (one.astype("float64") for one in weights(model))
    compiled(model, keras.optimizers.SGD(1.0))
    one = distiller(logits((0.25, 0.75), temperature), teacher_model=teacher_model)
    history = fit(model, DistillationCallback(one), x=x, y=y, epochs=1)

    z, t = x @ kernel + bias, teacher_model.predict(x, verbose=0).astype("float64")
    own = np.exp(log_softmax(z)) - np.eye(CLASSES)[y]
    softened = np.exp(log_softmax(z / temperature)) - np.exp(log_softmax(t / temperature))
    gradient = (0.25 * own + 0.75 * temperature * softened) / len(x)
    np.testing.assert_allclose(weights(model)[0], kernel - x.T @ gradient, atol=1e-6)
    np.testing.assert_allclose(weights(model)[1], bias - gradient.sum(0), atol=1e-6)
    np.testing.assert_allclose(history["distillation/KL"], [divergence(z, t, temperature).mean()], rtol=1e-5)


def test_features_cost_no_second_forward_of_the_student() -> None:
    model, teacher_model = compiled(student(extra=[Counter(name="counter")])), teacher(counter=True)
    one = distiller(features(), teacher_model=teacher_model)
    fit(model, DistillationCallback(one), epochs=2, validation_data=data(seed=4))
    # in training 3 batches an epoch, and as many in validation, where the teacher has nothing to do
    assert model.get_layer("counter").calls.numpy().tolist() == [6.0, 6.0]
    assert teacher_model.get_layer("counter").calls.numpy().tolist() == [0.0, 6.0]


def test_evaluating_moves_no_statistics() -> None:
    model, teacher_model = compiled(student()), teacher()
    frozen = weights(teacher_model)
    one = distiller(features(), teacher_model=teacher_model)
    moved: list[Any] = []

    class Evaluates(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            before = weights(model)
            model.evaluate(*data(seed=4), verbose=0)
            model.predict(data(seed=4)[0], verbose=0)
            moved.append(not all(np.array_equal(a, b) for a, b in zip(before, weights(model), strict=True)))

    fit(model, DistillationCallback(one), Evaluates())
    assert moved == [False, False]
    assert all(np.array_equal(a, b) for a, b in zip(frozen, weights(teacher_model), strict=True))


def test_validation_in_a_fit_changes_no_weight() -> None:
    one, other = compiled(student(dropout=0.0)), compiled(student(dropout=0.0))
    fit(one, DistillationCallback(distiller(features())))
    fit(other, DistillationCallback(distiller(features())), validation_data=data(seed=4))
    assert equal(one, other)


def test_sample_weights_reach_the_distillation() -> None:
    """Rows of weight 0 might as well not be there, but for the number that the sum is divided by."""
    x, y = data(8)
    kept = np.arange(8) < 4
    one = compiled(student(dropout=0.0), keras.optimizers.SGD(0.1))
    plain_norm = one.get_layer("norm")
    plain_norm.trainable = False  # its statistics are of all rows
    compiled(one, keras.optimizers.SGD(0.1))
    other = compiled(keras.models.clone_model(one), keras.optimizers.SGD(0.2))
    other.set_weights(one.get_weights())
    poisoned = x.copy()
    poisoned[~kept] *= 100.0
    fit(other, DistillationCallback(distiller()), x=poisoned, y=y, epochs=1, sample_weight=kept.astype("float32"))
    fit(one, DistillationCallback(distiller()), x=x[kept], y=y[kept], epochs=1)
    for a, b in zip(weights(one), weights(other), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("eagerly", [False, True])
def test_subclassed_models_are_welcome(eagerly: bool) -> None:
    pair = {"layer_mappings": [["body/inner", "body"]], "loss_types": ["MSE"], "loss_weights": [0.5]}
    conf = logits()
    criteria = conf["distillation"]["train"]["criterion"]
    criteria["IntermediateLayersKnowledgeDistillationLoss"] = pair | {"add_origin_loss": False}
    model = Subclassed()
    model(data()[0])
    history = fit(compiled(model, run_eagerly=eagerly), DistillationCallback(distiller(conf)), epochs=3)
    assert len(history) == 4
    assert history["loss"][-1] < history["loss"][0]


def test_the_saved_student_holds_no_weight_of_the_teacher(tmp_path: Path) -> None:
    model, plain = compiled(student()), compiled(student())
    fit(plain)

    class Saves(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            model.save(tmp_path / f"epoch{epoch}.keras")
            model.save_weights(tmp_path / f"epoch{epoch}.weights.h5")

    fit(model, DistillationCallback(distiller(features())), Saves())
    plain.save(tmp_path / "plain.keras")
    for name in ("epoch0.keras", "epoch1.keras"):
        loaded = keras.models.load_model(tmp_path / name)
        assert [one.shape for one in loaded.variables] == [one.shape for one in plain.variables]
        assert len(loaded.optimizer.variables) == len(plain.optimizer.variables)
    for size in (path.stat().st_size for path in tmp_path.glob("epoch*.keras")):
        assert size == pytest.approx((tmp_path / "plain.keras").stat().st_size, rel=0.01)
    plain.load_weights(tmp_path / "epoch1.weights.h5")
    assert equal(plain, model)


def test_the_model_that_is_fitted_is_the_users_own() -> None:
    model = compiled(student(), metrics=["accuracy"])
    layers, optimizer, variables = list(model.layers), model.optimizer, [one.path for one in model.variables]
    names = set(vars(model))
    fit(model, DistillationCallback(distiller(features())))
    assert model.layers == layers
    assert model.optimizer is optimizer
    assert [one.path for one in model.variables] == variables
    assert len(model.trainable_variables) == 6
    assert set(vars(model)) - names <= {"history", "_eval_epoch_iterator"}


def test_probabilities_are_not_divided_by_the_temperature() -> None:
    """A student and a teacher that end in a softmax, stated as such: the loss is that of their logits."""
    x, y = data(8)
    plain_teacher = teacher()
    soft_teacher = keras.Sequential([keras.Input((FEATURES,)), plain_teacher, keras.layers.Softmax()])
    raw = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(CLASSES)], name="student")
    soft = keras.Sequential([keras.Input((FEATURES,)), raw, keras.layers.Softmax()], name="soft")
    compiled(raw, keras.optimizers.SGD(0.0))
    compiled(soft, keras.optimizers.SGD(0.0), loss="sparse_categorical_crossentropy")
    expected = fit(raw, DistillationCallback(distiller(teacher_model=plain_teacher)), x=x, y=y, epochs=1)
    conf = logits()
    conf["distillation"]["train"]["criterion"]["KnowledgeDistillationLoss"]["from_logits"] = False
    one = distiller(conf, teacher_model=soft_teacher)
    history = fit(soft, DistillationCallback(one), x=x, y=y, epochs=1)
    for name in expected:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-5)
