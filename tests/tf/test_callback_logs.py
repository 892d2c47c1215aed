"""`DistillationCallback` inside a plain `fit`: what it writes into the logs, and who reads them."""

from __future__ import annotations

import csv
import logging
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks_tf import DistillationCallback
from tests.tf.callback_models import (
    compiled,
    data,
    distiller,
    divergence,
    fit,
    log_softmax,
    still,
    student,
    teacher,
)

# Keras converts its own variables in a way that NumPy 2 complains of.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


class Seen(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the logs that another callback of the fit is given."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[dict[str, float]] = []
        self.epochs: list[dict[str, float]] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.batches.append(dict(logs))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.epochs.append(dict(logs))


def test_history_has_the_components_and_their_weighted_sum_is_the_loss() -> None:
    x, y = data()
    model, teacher_model = still(), teacher()
    history = fit(model, DistillationCallback(distiller(teacher_model=teacher_model)), epochs=1)
    z, t = model.predict(x, verbose=0), teacher_model.predict(x, verbose=0)
    own = float(-log_softmax(z)[np.arange(len(y)), y].mean())
    softened = float(divergence(z, t, 3.0).mean())
    # the last batch is half as long as the others: means over examples, as Keras' own loss is one
    np.testing.assert_allclose(history["distillation/CE"], [own], rtol=1e-5)
    np.testing.assert_allclose(history["distillation/KL"], [softened], rtol=1e-5)
    np.testing.assert_allclose(history["loss"], [0.3 * own + 0.7 * softened], rtol=1e-5)
    assert sorted(history) == ["distillation/CE", "distillation/KL", "loss"]


def test_other_callbacks_see_the_components_before_and_after_ours() -> None:
    before, after = Seen(), Seen()
    fit(compiled(student()), before, DistillationCallback(distiller()), after)
    assert len(before.batches) == 6
    assert before.batches == after.batches
    assert before.epochs == after.epochs
    assert all(sorted(one) == ["distillation/CE", "distillation/KL", "loss"] for one in before.batches + before.epochs)
    assert before.batches[2] == before.epochs[0]


def test_callbacks_of_keras_follow_a_component(tmp_path: Path) -> None:
    of_keras = keras.callbacks
    component = "distillation/KL"
    watching = [
        of_keras.ModelCheckpoint(
            str(tmp_path / "{epoch:02d}-{distillation/KL:.3f}.weights.h5"), save_weights_only=True
        ),
        of_keras.ModelCheckpoint(str(tmp_path / "best.keras"), monitor=component, mode="min", save_best_only=True),
        of_keras.CSVLogger(str(tmp_path / "log.csv")),
        of_keras.TensorBoard(str(tmp_path / "events")),
        of_keras.ReduceLROnPlateau(monitor=component, mode="min", factor=0.5, patience=1, min_delta=1e9),
    ]
    model = compiled(student())
    stop = of_keras.EarlyStopping(monitor=component, mode="min", min_delta=1e9, patience=2)
    history = fit(model, *watching, DistillationCallback(distiller()), stop, epochs=9)
    assert len(history["loss"]) == 3
    assert float(model.optimizer.learning_rate) == pytest.approx(0.025)
    assert (tmp_path / "best.keras").exists()
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    np.testing.assert_allclose([float(row[component]) for row in rows], history[component], rtol=1e-6)
    events = next((tmp_path / "events" / "train").iterdir())
    assert f"epoch_{component}" in {
        value.tag for event in tf.compat.v1.train.summary_iterator(str(events)) for value in event.summary.value
    }
    expected = {f"{epoch + 1:02d}-{value:.3f}.weights.h5" for epoch, value in enumerate(history[component])}
    assert {path.name for path in tmp_path.glob("*.weights.h5")} == expected


def test_the_progress_bar_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    fit(compiled(student()), DistillationCallback(distiller()), verbose=2, epochs=1)
    shown = capsys.readouterr().out
    assert "distillation/CE: " in shown and "distillation/KL: " in shown


def test_a_metric_of_the_users_own_wins_its_name() -> None:
    class Taken(keras.metrics.Mean):  # type: ignore[misc]
        def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
            return super().update_state(42.0)

    history = fit(compiled(student(), metrics=[Taken(name="distillation/KL")]), DistillationCallback(distiller()))
    assert history["distillation/KL"] == [42.0, 42.0]


# ---- what the user's compile says ------------------------------------------------------------------


def test_the_events_of_an_epoch_reach_the_users_functions(caplog: pytest.LogCaptureFixture) -> None:
    events: list[Any] = []
    one = distiller()
    for event in ("on_train_begin", "on_epoch_begin", "on_epoch_end", "on_train_end"):
        one.register_hook(event, lambda d, event=event: events.append((event, d.epoch)))
    with caplog.at_level(logging.INFO, "kdhooks"):
        fit(compiled(student()), DistillationCallback(one))
    assert events == [
        ("on_train_begin", 0),
        ("on_epoch_begin", 0),
        ("on_epoch_end", 1),
        ("on_epoch_begin", 1),
        ("on_epoch_end", 2),
        ("on_train_end", 2),
    ]
    assert [record["epoch"] for record in one.history] == [0, 1]
    assert sorted(one.history[0]["losses"]) == ["CE", "KL", "total"]
