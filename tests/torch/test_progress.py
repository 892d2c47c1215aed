"""What a person sees while `fit()` trains."""

from __future__ import annotations

import io
import re
import sys
from pathlib import Path

import pytest

from tests.torch.training_runs import batches, distillation, settings


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_with_losses_rate_and_time_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    distillation(settings(tmp_path, end_epoch=1), batches(60, size=2)).fit()
    last = terminal.getvalue().split("\r")[-1]
    assert re.search(
        r"epoch 0/0: 100%\|.*\| 60/60 \[\d\d:\d\d<\d\d:\d\d, "
        r".*CE \d\.\d{4}, KL \d\.\d{4}, total \d\.\d{4}, lr 1\.0e-03\]",
        last,
    )


def test_elsewhere_every_epoch_is_a_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    distiller = distillation(settings(tmp_path), batches())
    distiller.eval_dataloader = batches(1, seed=4)
    with caplog.at_level("INFO", logger="kdhooks"):
        distiller.fit()
    number = r"\d\.\d{4}"
    lines = [record.getMessage() for record in caplog.records][:2]
    common = rf"CE {number}, KL {number}, total {number}, top1 {number}, lr 1\.0e-03, \d+\.\d s"
    assert re.fullmatch(rf"epoch 0/1: {common}, \d+\.\d s left \(best\)", lines[0])
    assert re.fullmatch(rf"epoch 1/1: {common}( \(best\))?", lines[1])


def test_the_losses_are_read_every_fifty_steps(tmp_path: Path) -> None:
    distiller = distillation(settings(tmp_path, end_epoch=1), batches(120, size=2))
    reads: list[int] = []
    distiller.register_hook("on_train_begin", lambda subject: count_reads(subject, reads))
    distiller.fit()
    assert reads == [50, 100]


def count_reads(subject: object, reads: list[int]) -> None:
    run = subject._run  # type: ignore[attr-defined]
    losses = run.losses
    run.losses = lambda: (reads.append(run.clock.step), losses())[1]
