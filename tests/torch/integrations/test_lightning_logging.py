"""The components of the loss in the trainer's loggers, and what that costs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.logger import DummyLogger

from kdhooks.integrations.lightning import DistillationCallback
from tests.torch.integrations.lightning_parts import Module, loader, logits, quiet, trainer

pytestmark = quiet


class Kept(DummyLogger):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:  # type: ignore[override]
        ours = {name: value for name, value in metrics.items() if name.startswith("kd/")}
        if ours:
            self.rows.append((step or 0, ours))


def test_components_of_logged_steps_and_means_of_epochs_go_to_the_loggers() -> None:
    logger, distiller, losses = Kept(), logits(), []
    distiller.register_hook("on_after_compute_loss", lambda one: losses.append(one.losses))
    fit = trainer(DistillationCallback(distiller), logger=logger, log_every_n_steps=2)
    fit.fit(Module(), loader())
    steps = [(step, row) for step, row in logger.rows if "kd/CE" in row]
    means = [(step, row) for step, row in logger.rows if "kd/CE_epoch" in row]
    assert [step for step, _ in steps] == [1, 3, 5, 7, 9]
    for step, row in steps:
        assert row == {f"kd/{name}": pytest.approx(value) for name, value in losses[step].items()}
    assert [step for step, _ in means] == [4, 9]
    for (_, row), record in zip(means, distiller.history, strict=True):
        assert row == {f"kd/{name}_epoch": pytest.approx(value) for name, value in record["losses"].items()}
    assert set(fit.callback_metrics) == {"train_loss", *steps[0][1], *means[0][1]}


def test_under_accumulation_the_steps_are_those_of_the_optimizer() -> None:
    logger = Kept()
    fit = trainer(DistillationCallback(logits()), logger=logger, log_every_n_steps=1, accumulate_grad_batches=5)
    fit.fit(Module(), loader())
    assert sorted({step for step, row in logger.rows if "kd/CE" in row}) == [0, 1]


def test_other_callbacks_can_watch_them(tmp_path: Path) -> None:
    best = ModelCheckpoint(tmp_path, monitor="kd/total_epoch", filename="best")
    stop = EarlyStopping("kd/total_epoch", patience=1, min_delta=100.0, check_on_train_epoch_end=True)
    distiller = logits()
    fit = trainer(DistillationCallback(distiller), best, stop, epochs=5, enable_checkpointing=True)
    fit.fit(Module(), loader())
    assert len(distiller.history) == 2
    assert float(best.best_model_score or 0) == pytest.approx(min(one["losses"]["total"] for one in distiller.history))


def test_names_and_progress_bar_are_the_users_choice() -> None:
    callback = DistillationCallback(logits(), prefix="distil_", prog_bar=True)
    fit = trainer(callback, log_every_n_steps=1)
    fit.fit(Module(), loader())
    assert {"distil_CE", "distil_KL", "distil_total"} < set(fit.progress_bar_metrics)
    fit = trainer(DistillationCallback(logits(), log=False), log_every_n_steps=1)
    fit.fit(Module(), loader())
    assert set(fit.callback_metrics) == {"train_loss"}


def test_a_csv_file_has_the_columns(tmp_path: Path) -> None:
    fit = trainer(DistillationCallback(logits()), logger=CSVLogger(tmp_path, "", ""), log_every_n_steps=5)
    fit.fit(Module(), loader())
    head = (tmp_path / "metrics.csv").read_text().splitlines()[0].split(",")
    assert {"kd/CE", "kd/KL", "kd/total", "kd/CE_epoch", "kd/KL_epoch", "kd/total_epoch"} < set(head)


def test_no_step_between_two_logged_ones_reads_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    reading = False

    def watched(name: str) -> Any:
        original = getattr(torch.Tensor, name)

        def read(self: Any, *args: Any) -> Any:
            if reading:
                reads.append(name)
            return original(self, *args)

        return read

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu", "numpy"):
        monkeypatch.setattr(torch.Tensor, name, watched(name))

    class Silent(Module):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            return torch.nn.functional.cross_entropy(self.model(batch[0]), batch[1])

        def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
            nonlocal reading
            reading = batch_idx > 1  # the first loss looks at what there is once

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            nonlocal reading
            reading = False

    found = []
    for callbacks in ([], [DistillationCallback(logits())]):
        trainer(*callbacks, log_every_n_steps=50).fit(Silent(), loader())
        found.append(sorted(reads))
        reads.clear()
    assert found[0] == found[1]
