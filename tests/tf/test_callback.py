"""`DistillationCallback` inside a plain `fit`: what is trained, and what keeps its meaning."""

from __future__ import annotations

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
    logits,
    nothing_of_ours,
    still,
    student,
    teacher,
    weights,
)

# Keras converts its own variables in a way that NumPy 2 complains of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def test_sample_weight_and_class_weight_act_on_the_distillation() -> None:
    x, y = data()
    w = np.random.default_rng(1).uniform(0.0, 2.0, len(y)).astype("float32")
    model, teacher_model = still(), teacher()
    z, t = model.predict(x, verbose=0), teacher_model.predict(x, verbose=0)
    rows = divergence(z, t, 3.0)
    given = fit(model, DistillationCallback(distiller(teacher_model=teacher_model)), epochs=1, sample_weight=w)
    np.testing.assert_allclose(given["distillation/KL"], [(w * rows).mean()], rtol=1e-5)
    of_class = {0: 0.5, 1: 2.0, 2: 0.0, 3: 1.0}
    by_class = np.array([of_class[label] for label in y])
    given = fit(model, DistillationCallback(distiller(teacher_model=teacher_model)), epochs=1, class_weight=of_class)
    np.testing.assert_allclose(given["distillation/KL"], [(by_class * rows).mean()], rtol=1e-5)


def test_validation_is_the_models_own() -> None:
    x, y = data()
    model = compiled(student(), metrics=["accuracy"])
    history = fit(model, DistillationCallback(distiller()), validation_data=(x, y))
    assert sorted(history) == ["accuracy", "distillation/CE", "distillation/KL", "loss", "val_accuracy", "val_loss"]
    loss, accuracy = model.evaluate(x, y, verbose=0, batch_size=8)
    assert (history["val_loss"][-1], history["val_accuracy"][-1]) == pytest.approx((loss, accuracy), rel=1e-6)
    own = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(y, model.predict(x, verbose=0))
    assert loss == pytest.approx(float(own), rel=1e-5)


def test_the_teacher_runs_in_training_only() -> None:
    x, y = data()
    teacher_model, model = teacher(counter=True), compiled(student())
    counter = teacher_model.get_layer("counter")
    fit(model, DistillationCallback(distiller(teacher_model=teacher_model)), validation_data=(x, y), epochs=2)
    assert counter.calls.numpy().tolist() == [0.0, 6.0]
    model.evaluate(x, y, verbose=0)
    model.predict(x, verbose=0)
    assert counter.calls.numpy().tolist() == [0.0, 6.0]


def test_evaluating_in_the_middle_of_a_fit_runs_no_teacher() -> None:
    x, y = data()
    teacher_model, model = teacher(counter=True), compiled(student())
    results: list[Any] = []

    class Evaluates(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            results.append(model.evaluate(x, y, verbose=0, return_dict=True))
            model.predict(x, verbose=0)

    fit(model, DistillationCallback(distiller(teacher_model=teacher_model)), Evaluates(), epochs=1)
    assert teacher_model.get_layer("counter").calls.numpy().tolist() == [0.0, 3.0]
    assert [sorted(one) for one in results] == [["loss"]] * 3


@pytest.mark.parametrize(
    "options",
    [{"run_eagerly": True}, {"jit_compile": True}, {"steps_per_execution": 2}, {"steps_per_execution": 4}],
    ids=["eager", "jit", "two steps", "an epoch"],
)
def test_every_way_to_run_a_step_trains_the_same(options: dict[str, Any]) -> None:
    plain, other = compiled(student(dropout=0.0)), compiled(student(dropout=0.0), **options)
    expected = fit(plain, DistillationCallback(distiller()))
    history = fit(other, DistillationCallback(distiller()))
    for one, two in zip(weights(plain), weights(other), strict=True):
        np.testing.assert_allclose(one, two, atol=1e-5)
    for name in expected:
        np.testing.assert_allclose(history[name], expected[name], rtol=1e-4)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("conf", [logits(), features()], ids=["logits", "features"])
def test_mixed_precision(policy: str, conf: dict[str, Any]) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        model = compiled(student(dropout=0.0))
    finally:
        keras.config.set_dtype_policy("float32")
    scaled = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scaled is (policy == "mixed_float16")
    reference = compiled(student(dropout=0.0))
    history = fit(model, DistillationCallback(distiller(conf)), epochs=2)
    expected = fit(reference, DistillationCallback(distiller(conf)), epochs=2)
    assert len(history) == (3 if conf == logits() else 4)
    for name in expected:
        np.testing.assert_allclose(history[name], expected[name], rtol=0.05)
    if scaled:
        assert int(model.optimizer.iterations) == 6  # no step was skipped


class OwnLoss(keras.Model):  # type: ignore[misc]
    """Overrides compute_loss with the argument `training`."""

    def __init__(self) -> None:
        super().__init__(name="student")
        keras.utils.set_random_seed(0)
        self.head = keras.layers.Dense(CLASSES, kernel_regularizer="l2", activity_regularizer="l2")

    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.head(inputs)

    def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None, training: bool = True) -> Any:
        return 2.0 * super().compute_loss(x, y, y_pred, sample_weight)


class OldLoss(OwnLoss):
    """Overrides it as Keras 3.0 had it."""

    def compute_loss(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:  # type: ignore[override]
        return 2.0 * keras.Model.compute_loss(self, x, y, y_pred, sample_weight)


class OwnStep(OwnLoss):
    """Its own train_step, with the logs that Keras' guide returns."""

    def train_step(self, batch: Any) -> Any:
        x, y = batch
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred, x=x)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self._loss_tracker.update_state(loss)
        return {metric.name: metric.result() for metric in self.metrics}


@pytest.mark.parametrize("kind", [OwnLoss, OldLoss, OwnStep])
def test_a_subclass_computes_its_own_loss(kind: Any) -> None:
    x, y = data()
    plain, model = compiled(kind(), keras.optimizers.SGD(0.0)), compiled(kind(), keras.optimizers.SGD(0.0))
    expected = fit(plain, epochs=1, batch_size=10)
    history = fit(model, DistillationCallback(distiller()), epochs=1, batch_size=10, validation_data=(x, y))
    np.testing.assert_allclose(history["distillation/CE"], expected["loss"], rtol=1e-5)
    total = 0.3 * history["distillation/CE"][0] + 0.7 * history["distillation/KL"][0]
    np.testing.assert_allclose(history["loss"], [total], rtol=1e-5)
    np.testing.assert_allclose(history["val_loss"], model.evaluate(x, y, verbose=0), rtol=1e-5)
    assert nothing_of_ours(model)


@pytest.mark.parametrize("form", ["one-hot", "column", "float"])
def test_labels_in_the_forms_that_keras_takes(form: str) -> None:
    """A loss that looks at labels gets them whatever the form of the target."""
    x, y = data()
    conf = logits()
    options = {"temperature": 3.0, "loss_types": ["CE", "DKD"], "loss_weights": [0.3, 0.7]}
    conf["distillation"]["train"]["criterion"]["KnowledgeDistillationLoss"] = options
    expected = fit(still(), DistillationCallback(distiller(conf)), epochs=1)
    if form == "one-hot":
        model, y = still(loss=keras.losses.CategoricalCrossentropy(from_logits=True)), np.eye(CLASSES)[y]
    else:
        model, y = still(), y[:, None] if form == "column" else y.astype("float32")
    history = fit(model, DistillationCallback(distiller(conf)), epochs=1, x=x, y=y)
    np.testing.assert_allclose(history["distillation/dkd"], expected["distillation/dkd"], rtol=1e-6)


def test_matchers_are_trained_at_the_models_learning_rate() -> None:
    changes = []
    for rate in (0.1, 0.0):
        model = compiled(student(), keras.optimizers.Adam(rate))
        one = distiller(features())
        first: list[Any] = []

        class First(keras.callbacks.Callback):  # type: ignore[misc]
            def on_train_batch_end(self, batch: int, logs: Any = None, one: Any = one, first: Any = first) -> None:
                if not first:
                    first.extend(np.array(variable) for variable in one.parameters())

        fit(model, DistillationCallback(one), First(), epochs=3)
        last = [np.array(variable) for variable in one.parameters()]
        assert first
        changes.append(max(float(np.abs(a - b).max()) for a, b in zip(first, last, strict=True)))
    assert changes[0] > 0.05
    assert changes[1] == 0.0


def test_a_schedule_is_followed_and_traces_no_more_than_a_plain_fit() -> None:
    traces: list[int] = []

    class Traced(keras.layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            traces.append(1)
            return inputs

    x, y = data(24)
    x[8:], y[8:] = x[:16], y[:16]  # three times the same batch
    x[16:] = x[:8]
    teacher_model = teacher()
    counts = []
    for weight in (0.0, {"linear": {"from": 1.0, "to": 0.0, "steps": 5}}):
        model = keras.Sequential([keras.Input((FEATURES,)), Traced(), keras.layers.Dense(CLASSES)], name="student")
        compiled(model, keras.optimizers.SGD(0.0, momentum=0.9))
        traces.clear()
        one = distiller(logits((0.0, weight)), teacher_model=teacher_model)
        history = fit(model, *([DistillationCallback(one)] if weight else []), x=x, y=y, epochs=2)
        counts.append(len(traces))
    assert counts[0] == counts[1]
    value = float(divergence(model.predict(x[:8], verbose=0), teacher_model.predict(x[:8], verbose=0), 3.0).mean())
    assert value > 0.1
    np.testing.assert_allclose(history["loss"], [value * (1 + 0.8 + 0.6) / 3, value * (0.4 + 0.2) / 3], rtol=1e-5)


@pytest.mark.filterwarnings("ignore:Your input ran out of data:UserWarning")  # of Keras, in a plain fit as well
def test_a_tf_dataset_and_steps_per_epoch() -> None:
    x, y = data()
    batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8).repeat()
    history = fit(compiled(student()), DistillationCallback(distiller()), x=batches, steps_per_epoch=3, epochs=2)
    assert len(history["distillation/KL"]) == 2
    unknown = tf.data.Dataset.from_tensor_slices((x, y)).filter(lambda x, y: True).batch(8)
    model = compiled(student())
    history = fit(model, DistillationCallback(distiller()), x=unknown, epochs=2)
    assert (
        len(history["distillation/KL"]) == 2
    )  # the end of the data, which ends an epoch, did not end the distillation


# ---- several fits ----------------------------------------------------------------------------------


def test_a_second_fit_with_the_same_callback_starts_anew() -> None:
    one = distiller(features())
    callback = DistillationCallback(one)
    model = compiled(student())
    fit(model, callback)
    assert (one.step, one.epoch) == (6, 2)
    fit(model, callback)
    assert (one.step, one.epoch) == (6, 2)
    assert nothing_of_ours(model)


@pytest.mark.parametrize("conf", [logits(), features()], ids=["logits", "features"])
def test_a_fit_that_goes_on_gives_the_weights_of_one_fit(conf: dict[str, Any]) -> None:
    whole = compiled(student(dropout=0.0))
    fit(whole, DistillationCallback(distiller(conf)), epochs=4)
    one = distiller(conf)
    model, callback = compiled(student(dropout=0.0)), DistillationCallback(one)
    fit(model, callback, epochs=2)
    fit(model, callback, epochs=4, initial_epoch=2)
    assert (one.step, one.epoch) == (12, 4)
    for a, b in zip(weights(whole), weights(model), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_schedules_stand_where_the_initial_epoch_says() -> None:
    one = distiller()
    fit(compiled(student()), DistillationCallback(one), epochs=4, initial_epoch=2)
    assert (one.step, one.epoch) == (12, 4)


def test_a_later_plain_fit_is_plain() -> None:
    plain, model = compiled(student(dropout=0.0)), compiled(student(dropout=0.0))
    before = weights(model)
    fit(model, DistillationCallback(distiller()))
    model.set_weights(before)
    compiled(model)
    fit(model)
    fit(plain)
    assert equal(plain, model)


def test_training_on_a_batch_in_the_middle_of_a_fit_is_plain() -> None:
    x, y = data()
    teacher_model, model = teacher(counter=True), compiled(student())

    class Trains(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            assert sorted(model.train_on_batch(x, y, return_dict=True)) == ["loss"]

    fit(model, Trains(), DistillationCallback(distiller(teacher_model=teacher_model)))
    assert teacher_model.get_layer("counter").calls.numpy().tolist() == [0.0, 6.0]


def test_one_forward_of_the_student_a_step() -> None:
    model = compiled(student(extra=[Counter(name="counter")]))
    fit(model, DistillationCallback(distiller(features())), epochs=2)
    assert model.get_layer("counter").calls.numpy().tolist() == [6.0, 0.0]
