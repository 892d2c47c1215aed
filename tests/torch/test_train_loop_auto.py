"""Precision and memory format of the student in the built-in loop, chosen by timing the first batch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdhooks import Distillation
from kdhooks.errors import UsageError
from kdhooks.speed import Choice
from kdhooks.torch import student_choice
from kdhooks.torch.checkpoint import CheckpointFile
from tests.torch.speed_runs import FIT, FUSED, Maps, Recorder, are_last, images, run_of, shuffled, take
from tests.torch.test_ranks import free_port
from tests.torch.training_runs import NOTHING, equal, process


def test_auto_times_copies_and_leaves_all_that_is_the_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    timed = take(monkeypatch, Choice("fp32"))
    calls: list[int] = []
    runs = []
    for options in ({"precision": "fp32", "optimizer": FUSED}, FIT):
        distiller = run_of(tmp_path, shuffled(), **options)
        distiller.student_model.conv.register_forward_hook(Recorder(calls))
        with caplog.at_level("INFO", logger="kdhooks"):
            runs.append((distiller.fit(), torch.rand(3)))
        assert len(calls) == 8
        calls.clear()
    assert timed == [Choice(p, channels_last=last) for p in ("fp32", "bf16") for last in (False, True)]
    assert equal(runs[0][0], runs[1][0])  # dropout, BatchNorm, order and noise of the rows among it
    assert torch.equal(runs[0][1], runs[1][1])
    told = [record.getMessage() for record in caplog.records if record.getMessage().startswith("student")]
    assert told == [
        "student: fp32; a forward and backward took: fp32 1000.0 ms, fp32, channels last 2000.0 ms, bf16 2000.0 ms, "
        "bf16, channels last 2000.0 ms"
    ]


def test_what_auto_chose_is_what_could_have_been_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, Choice("bf16", channels_last=True))
    chosen = run_of(tmp_path, shuffled(), **FIT)
    asked = run_of(tmp_path, shuffled(), precision="bf16", channels_last=True, optimizer=FUSED)
    assert equal(chosen.fit(), asked.fit())
    assert CheckpointFile(tmp_path / "checkpoint.pt").read()["speed"] == Choice("bf16", channels_last=True).to_dict()


def test_workers_that_live_on_are_started_for_the_run_and_not_for_the_timing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loader = shuffled(num_workers=1, persistent_workers=True)
    take(monkeypatch, Choice("fp32"))
    timed = student_choice.time_in_turn

    def without_workers(*args: Any) -> Any:
        assert loader._iterator is None
        return timed(*args)

    monkeypatch.setattr(student_choice, "time_in_turn", without_workers)
    chosen = run_of(tmp_path, loader, **FIT).fit()
    other = shuffled(num_workers=1, persistent_workers=True)
    asked = run_of(tmp_path, other, precision="fp32", optimizer=FUSED).fit()
    assert equal(chosen, asked)


def test_only_what_is_auto_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = take(monkeypatch, Choice("bf16"))
    run_of(tmp_path, precision="auto", end_epoch=1).fit()
    assert timed == [Choice("fp32"), Choice("bf16")]
    timed.clear()
    run_of(tmp_path, channels_last="auto", end_epoch=1).fit()
    assert timed == [Choice(), Choice(channels_last=True)]
    timed.clear()
    rows = [(torch.randn(8, 6), torch.randint(4, (8,)))]  # no maps, so no format for them
    run_of(tmp_path, rows, student=nn.Linear(6, 4), criterion=NOTHING, end_epoch=1, **FIT).fit()
    assert timed == [Choice("fp32"), Choice("bf16")]


def test_a_resumed_run_does_not_choose_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, Choice("bf16", channels_last=True))
    whole = run_of(tmp_path / "whole", shuffled(), end_epoch=4, **FIT).fit()
    first = run_of(tmp_path / "parts", shuffled(), end_epoch=4, checkpoint_steps=3, **FIT)

    def stop(subject: Distillation) -> None:
        if subject.step == 7:
            raise LookupError("stopped")

    first.register_hook("on_step_begin", stop)
    with pytest.raises(LookupError):
        first.fit()
    monkeypatch.setattr(student_choice, "time_in_turn", None)  # a call would be a TypeError
    second = run_of(tmp_path / "parts", shuffled(), end_epoch=4, checkpoint_steps=3, **FIT)
    second.conf["tuning.workspace.resume"] = True
    assert equal(second.fit(), whole)


def test_an_iterator_has_no_batch_to_spare(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="kdhooks"):
        distiller = run_of(tmp_path, iter(images()), end_epoch=1, **FIT)
        distiller.fit()
    assert distiller.step == 4
    assert caplog.records[0].getMessage() == "student: fp32; there was no first batch to time other ways on"


def test_a_student_that_cannot_be_copied_stays_as_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    student = Maps()
    student.kept = student.conv.weight * 2  # has a graph
    with caplog.at_level("INFO", logger="kdhooks"):
        run_of(tmp_path, student=student, end_epoch=1, **FIT).fit()
    first, second = (record.getMessage() for record in caplog.records[:2])
    assert first.startswith("student: other ways can't be tried, since it can't be copied: Only Tensors created")
    assert second == "student: fp32"


def test_lbfgs_needs_gradients_that_are_vectors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timed = take(monkeypatch, Choice("bf16"))
    run_of(tmp_path, optimizer={"LBFGS": {}}, end_epoch=1, **FIT).fit()
    assert timed == [Choice("fp32"), Choice("bf16")]
    with pytest.raises(UsageError) as caught:
        run_of(tmp_path, optimizer={"LBFGS": {}}, channels_last=True).fit()
    assert str(caught.value) == ("LBFGS can't be used with channels_last: true, since it views gradients as vectors")


def one_of_two(folder: Path, rank: int, port: int) -> None:
    """A rank of two; the second must not time anything."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    loader = {
        "batch_size": 4,
        "distributed": True,
        "dataset": {"dummy": {"shape": [3, 8, 8], "size": 32, "classes": 4}},
    }
    distiller = run_of(folder, dataloader=loader, end_epoch=1, **FIT)
    distiller.train_dataloader = None
    student_choice.time_in_turn = None if rank else lambda ways, device: {Choice("bf16", channels_last=True): 1.0}
    seen: list[bool] = []
    distiller.register_hook("on_after_compute_loss", lambda subject: seen.append(are_last(subject.student_model)))
    student = distiller.fit()
    assert seen == [True] * 4 and not are_last(student)
    torch.save(student.state_dict(), folder / f"rank{rank}.pt")


def test_every_rank_does_what_rank_0_chose(tmp_path: Path) -> None:
    port = free_port()
    ranks = [process(one_of_two, tmp_path, rank, port) for rank in range(2)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(100)
    assert [one.exitcode for one in ranks] == [0, 0]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert CheckpointFile(tmp_path / "checkpoint.pt").read()["speed"]["precision"] == "bf16"
