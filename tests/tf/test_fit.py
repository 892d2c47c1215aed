"""`fit()` from the configuration: what it takes, what it returns, what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.errors import ConfigError, DataError, ModelError, NonFiniteLossError, UsageError
from tests.tf.fit_runs import (
    CLASSES,
    FEATURES,
    NOTHING,
    SGD,
    batches,
    distillation,
    equal,
    rows,
    settings,
    student_model,
    teacher_model,
    weights,
)

SAVING = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def fitted(folder: Path, loader: Any, **train: Any) -> Any:
    distiller = distillation(settings(folder, optimizer=SGD, **train), loader)
    distiller.fit()
    return distiller


def plain_loop(loader: Any, epochs: int = 2) -> Any:
    """What a careful person writes, without kdhooks, with Keras's own optimizer."""
    keras.utils.set_random_seed(5)
    student = student_model()
    keras.utils.set_random_seed(5)
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
    variables = student.trainable_variables

    @tf.function(autograph=False)
    def step(x: Any, y: Any) -> None:
        with tf.GradientTape() as tape:
            logits = student(x, training=True)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(y, logits))
        optimizer.apply(tape.gradient(loss, variables), variables)

    for _ in range(epochs):
        for x, y in loader:
            step(tf.constant(x), tf.constant(y))
    return student


def test_with_weight_0_the_student_is_that_of_the_plain_loop(tmp_path: Path) -> None:
    student = fitted(tmp_path, batches(), criterion=NOTHING).student_model
    for one, other in zip(weights(student), weights(plain_loop(batches())), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


class Numbered(keras.utils.PyDataset):  # type: ignore[misc]
    def __len__(self) -> int:
        return 6

    def __getitem__(self, number: int) -> Any:
        return batches()[number]


def loaders() -> dict[str, Any]:
    x, y = rows()
    return {
        "tf.data": tf.data.Dataset.from_tensor_slices((x, y)).batch(8),
        "PyDataset": Numbered(),
        "list": batches(),
        "mappings": [{"inputs": a, "labels": b} for a, b in batches()],
        "weights of 1": [(a, b, np.ones(8, np.float32)) for a, b in batches()],
        "labels [N, 1]": [(a, b[:, None]) for a, b in batches()],
    }


@pytest.mark.parametrize("kind", ["tf.data", "PyDataset", "mappings", "weights of 1", "labels [N, 1]"])
def test_every_form_of_batches_trains_alike(kind: str, tmp_path: Path) -> None:
    found = fitted(tmp_path / "one", loaders()[kind], end_epoch=1)
    expected = fitted(tmp_path / "other", loaders()["list"], end_epoch=1)
    assert found.history[0]["steps"] == 6
    assert equal(found.student_model, expected.student_model)


def test_weights_of_samples_weigh_both_losses(tmp_path: Path) -> None:
    x, y = rows(8)
    weight = np.array([1, 1, 1, 1, 0, 0, 0, 0], np.float32)
    conf = settings(tmp_path, end_epoch=1)
    distiller = distillation(conf, [(x, y, weight)])
    losses: list[dict[str, float]] = []
    distiller.register_hook("on_epoch_end", lambda subject: losses.append(subject.history[-1]["losses"]))
    distiller.conf["distillation.train.execution_mode"] = "eager"
    distiller._student = no_dropout()
    distiller.fit()
    expected = distillation(settings(tmp_path, end_epoch=1), [(x[:4], y[:4])])
    expected._student = no_dropout()
    expected.fit()
    for name in ("CE", "KL"):
        assert losses[0][name] == pytest.approx(expected.history[0]["losses"][name] / 2, rel=1e-5)


def no_dropout() -> Any:
    keras.utils.set_random_seed(4)
    return keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(4)])


def test_a_graph_gives_what_python_gives_and_is_traced_once(tmp_path: Path) -> None:
    calls: list[int] = []

    class Counting(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inner = no_dropout()

        def call(self, inputs: Any, training: bool = False) -> Any:
            if training:
                calls.append(1)
            return self.inner(inputs, training=training)

    results, counts = [], []
    for mode in ({}, {"execution_mode": "graph"}, {"execution_mode": "eager"}):
        calls.clear()
        student = Counting()
        student(np.zeros((1, FEATURES), np.float32))
        conf = settings(tmp_path, optimizer=SGD, **mode)
        distiller = Distillation(conf, student_model=student, teacher_model=teacher_model())
        distiller.train_dataloader = batches()
        distiller.fit()
        results.append(weights(student))
        counts.append(len(calls))
    assert counts == [1, 1, 12]
    for other in results[1:]:
        for one, another in zip(results[0], other, strict=True):
            np.testing.assert_allclose(one, another, atol=1e-6)


def test_the_best_weights_are_a_true_copy_and_come_back(tmp_path: Path) -> None:
    distiller = distillation(settings(tmp_path, optimizer=SGD, end_epoch=4), batches())
    scores, kept = iter([0.1, 0.9, 0.5, 0.2]), []

    def evaluate(model: Any) -> float:
        kept.append(model.get_weights())
        return next(scores)

    distiller.eval_func = evaluate
    student = distiller.fit()
    assert student is distiller.student_model
    assert distiller.best_score == 0.9
    assert all(np.array_equal(a, b) for a, b in zip(student.get_weights(), kept[1], strict=True))
    best = distiller.best_model
    student.set_weights([0 * weight for weight in student.get_weights()])
    assert all(np.array_equal(a, b) for a, b in zip(best.get_weights(), kept[1], strict=True))


@SAVING  # Keras's own
def test_a_distilled_student_is_an_ordinary_model(tmp_path: Path) -> None:
    student = fitted(tmp_path, batches()).student_model
    student.save(tmp_path / "student.keras")
    again = keras.models.load_model(tmp_path / "student.keras")
    x, _ = rows(4)
    np.testing.assert_array_equal(student.predict(x, verbose=0), again.predict(x, verbose=0))
    assert [type(layer).__module__.split(".")[0] for layer in again.layers] == ["keras"] * 5


def test_a_second_fit_begins_with_new_momentum(tmp_path: Path) -> None:
    distiller = fitted(tmp_path, batches())
    first = distiller.optimizer
    distiller.fit()
    assert distiller.optimizer is not first
    assert int(distiller.optimizer.iterations) == 12


def test_the_users_own_optimizer_is_used(tmp_path: Path) -> None:
    distiller = distillation(settings(tmp_path, scheduler={"Step": {"step_epochs": 1}}), batches())
    own = distiller.optimizer = keras.optimizers.Adam(0.01)
    distiller.fit()
    assert distiller.optimizer is own
    assert [record["learning_rate"] for record in distiller.history] == pytest.approx([0.01, 0.001])
    assert int(own.iterations) == 12


def test_regularizers_count_as_in_keras(tmp_path: Path) -> None:
    def made() -> Any:
        keras.utils.set_random_seed(4)
        return keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.1))]
        )

    x, y = rows(8)
    student, twin = made(), made()
    distiller = Distillation(
        settings(tmp_path, optimizer={"SGD": {"learning_rate": 0.5}}, end_epoch=1, criterion=NOTHING),
        student_model=student,
    )
    distiller.train_dataloader = [(x, y)]
    distiller.fit()
    twin.compile(keras.optimizers.SGD(0.5), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    twin.train_on_batch(x, y)
    for one, other in zip(student.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", "bfloat16"), ("fp16", "float16")])
def test_precisions_are_the_loops_and_leave_the_layers_as_they_were(precision: str, dtype: str, tmp_path: Path) -> None:
    seen: list[str] = []

    class Seeing(keras.layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any, training: bool = False) -> Any:
            if training:
                seen.append(inputs.dtype)
            return inputs

    keras.utils.set_random_seed(4)
    student = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(8), Seeing(), keras.layers.Dense(CLASSES)])
    distiller = Distillation(
        settings(tmp_path, optimizer=SGD, precision=precision, gradient_clipping=1.0),
        student_model=student,
        teacher_model=teacher_model(),
    )
    distiller.train_dataloader = batches()
    distiller.fit()
    assert {str(one) for one in seen} == {f"<dtype: '{dtype}'>"} or set(seen) == {dtype}
    assert {str(weight.dtype) for weight in student.weights} == {"float32"}
    assert {layer.dtype_policy.name for layer in student.layers} == {"float32"}
    assert distiller.history[1]["losses"]["CE"] < distiller.history[0]["losses"]["CE"]


def test_a_loss_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    x, y = rows(8)
    loader = [(x, y)] * 60 + [(x * math.nan, y)] * 41
    distiller = distillation(settings(tmp_path, checkpoint_steps=20), loader)
    with pytest.raises(NonFiniteLossError) as caught:
        distiller.fit()
    assert (caught.value.step, caught.value.component) == (60, "CE")
    assert str(caught.value) == (
        "the loss component 'CE' became NaN or infinite at step 60; the last good checkpoint is "
        f"{tmp_path / 'checkpoint.npz'}, which holds the first 60 steps"
    )


def test_hooks_are_called_for_every_step(tmp_path: Path) -> None:
    distiller = distillation(settings(tmp_path), batches())
    steps: list[int] = []
    distiller.register_hook("on_step_end", lambda subject: steps.append(subject.step))
    distiller.fit()
    assert steps == list(range(1, 13))


def test_what_is_written_for_tensorboard(tmp_path: Path) -> None:
    conf = settings(tmp_path, end_epoch=1)
    conf["tuning"]["tensorboard"] = True
    distiller = distillation(conf, batches(60, size=2))
    distiller.eval_dataloader = batches(1, seed=4)
    distiller.fit()
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    tags = events.Tags()["scalars"]
    assert sorted(tags) == ["evaluation/top1", "learning_rate", "loss/CE", "loss/KL", "loss/total"]
    rates = [(event.step, event.value) for event in events.Scalars("learning_rate")]
    assert rates == [(49, pytest.approx(0.001)), (59, pytest.approx(0.001))]


def not_built() -> Any:
    return keras.Sequential([keras.layers.Dense(4)])


@pytest.mark.parametrize(
    ("change", "kind", "text"),
    [
        ({"loader": None}, UsageError,
         "there is nothing to train on: set distiller.train_dataloader, or name a dataset in "
         "distillation.train.dataloader"),
        ({"loader": 3}, DataError,
         "train_dataloader must be a tf.data.Dataset, a keras PyDataset or another iterable of batches, not a int"),
        ({"loader": iter([])}, DataError,
         "the train_dataloader had no batch in epoch 0; a generator can be iterated over only once"),
        ({"student": not_built}, UsageError,
         "the student Sequential is not built yet, so it has no weights to train: call it on a batch, or give it an "
         "Input, before fit()"),
        ({"optimizer": 3}, UsageError, "distiller.optimizer must be an optimizer of Keras, not int"),
        ({"device": "gpu"}, ConfigError,
         "<dict>: device: this machine has no GPU that TensorFlow can use\n  Write device: auto."),
        ({"device": "cuda:3"}, ConfigError,
         "<dict>: device: there is no device 'cuda:3': TensorFlow finds 0 GPU devices\n  Write device: auto."),
    ],
)  # fmt: skip
def test_what_cannot_be_trained(change: dict[str, Any], kind: type[Exception], text: str, tmp_path: Path) -> None:
    conf = settings(tmp_path) | ({"device": change["device"]} if "device" in change else {})
    distiller = Distillation(conf, student_model=change.get("student", student_model)(), teacher_model=teacher_model())
    distiller.train_dataloader = change.get("loader", batches())
    distiller.optimizer = change.get("optimizer")
    with pytest.raises(kind) as caught:
        distiller.fit()
    assert str(caught.value) == text


def test_a_frozen_student_and_an_optimizer_of_another_model(tmp_path: Path) -> None:
    distiller = distillation(settings(tmp_path), batches())
    distiller.optimizer = keras.optimizers.Adam()
    distiller.optimizer.build(teacher_model().trainable_variables)
    with pytest.raises(ModelError) as caught:
        distiller.fit()
    assert str(caught.value) == ("distiller.optimizer was built for other variables than the student's: make a new one")
    distiller.optimizer = None
    distiller.student_model.trainable = False
    with pytest.raises(ModelError) as caught:
        distiller.fit()
    assert str(caught.value) == "the student has no weight to train: it has none, or each has trainable=False"
