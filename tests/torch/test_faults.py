"""Runs that are killed, stopped or spoilt: nothing is lost, nothing half written, nothing silent."""

from __future__ import annotations

import os
import random
import signal
import time
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import pytest
import torch

from kdhooks.errors import NonFiniteLossError
from kdhooks.torch.checkpoint import CheckpointFile
from tests.torch.training_runs import (
    batches,
    distillation,
    exit_code,
    long_run,
    process,
    resumed_run,
    run_killed_while_writing,
    run_that_gets,
    run_to_be_killed,
    settings,
    uninterrupted_run,
)


def same(one: Any, other: Any) -> bool:
    """Equality bit for bit of nests of plain data and tensors."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other) and one.dtype == other.dtype
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def final(folder: Path) -> Any:
    return torch.load(folder / "final.pt", weights_only=True)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What runs of each kind come to when nothing happens to them."""
    folders = {kind: tmp_path_factory.mktemp("uninterrupted") for kind in ("named", "own loader")}
    assert [exit_code(uninterrupted_run, folder, kind) for kind, folder in folders.items()] == [0, 0]
    return {kind: final(folder) for kind, folder in folders.items()}


def killed_run(folder: Path, kind: str, steps: int, delay: float) -> None:
    """Start or continue a run, and SIGKILL it so many seconds after it began so many steps."""
    told, tell = Pipe(duplex=False)
    run = process(run_to_be_killed, folder, kind, tell)
    run.start()
    for _ in range(steps):
        assert told.poll(60)
        told.recv_bytes()
    time.sleep(delay)
    os.kill(run.pid, signal.SIGKILL)
    run.join()
    assert run.exitcode == -signal.SIGKILL


@pytest.mark.parametrize("seed", [20, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(10))])
@pytest.mark.parametrize("kind", ["named", "own loader"])
def test_twenty_kills_change_no_bit(kind: str, seed: int, uninterrupted: dict[str, Any], tmp_path: Path) -> None:
    chance, positions = random.Random(seed), []
    file = CheckpointFile(tmp_path / "checkpoint.pt")
    for _ in range(20):
        killed_run(tmp_path, kind, chance.randint(1, 12), chance.uniform(0.0, 0.015))
        if file.path.exists():
            positions.append(file.read()["position"])  # never half written
    assert exit_code(resumed_run, tmp_path, kind) == 0

    steps = [position["step"] for position in positions]
    assert steps == sorted(steps)
    assert len(set(steps)) > 5
    assert any(position["batch"] > 0 for position in positions)
    assert same(final(tmp_path), uninterrupted[kind])
    left = ["checkpoint.pt", "curves.png", "final.pt", "run.json", "tensorboard"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left


@pytest.mark.parametrize("moment", ["saving", "replacing"])
def test_a_kill_while_a_checkpoint_is_written_leaves_the_former_one(moment: str, tmp_path: Path) -> None:
    assert exit_code(run_killed_while_writing, tmp_path, moment, 4) == -signal.SIGKILL
    left = [".checkpoint.pt.tmp", "checkpoint.pt", "run.json", "tensorboard"]
    assert sorted(path.name for path in tmp_path.iterdir()) == left
    # steps 4, 6 and 10: the third, sixth and ninth step belong to optimizer steps that end there
    assert CheckpointFile(tmp_path / "checkpoint.pt").read()["position"] == {"epoch": 0, "batch": 10, "step": 10}


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 77)])
def test_a_signal_finishes_the_step_and_writes(
    number: int, code: int, uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    assert exit_code(run_that_gets, tmp_path, number, 36) == code
    position = CheckpointFile(tmp_path / "checkpoint.pt").read()["position"]
    assert position == {"epoch": 1, "batch": 8, "step": 37}  # the first epoch has 29 batches
    assert exit_code(resumed_run, tmp_path, "named") == 0
    assert same(final(tmp_path), uninterrupted["named"])


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    assert exit_code(run_that_gets, tmp_path, signal.SIGTERM, 36, True) == 143
    assert CheckpointFile(tmp_path / "checkpoint.pt").read()["position"]["step"] < 36


def test_nan_stops_within_fifty_steps_and_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    loader = batches(100, size=2)
    distiller = distillation(settings(tmp_path, end_epoch=1, checkpoint_steps=20), loader)
    loader[61][0][:] = float("nan")
    seen: list[int] = []
    distiller.register_hook("on_step_begin", lambda subject: seen.append(subject.step))
    with pytest.raises(NonFiniteLossError) as caught:
        distiller.fit()
    assert str(caught.value) == (
        "the loss component 'CE' became NaN or infinite at step 61; the last good checkpoint is "
        f"{tmp_path}/checkpoint.pt, which holds the first 60 steps"
    )
    assert len(seen) <= 61 + 50
    assert CheckpointFile(tmp_path / "checkpoint.pt").read()["position"]["step"] == 60


def test_an_infinite_teacher_is_named_before_any_checkpoint(tmp_path: Path) -> None:
    distiller = distillation(settings(tmp_path), batches())
    with torch.no_grad():
        distiller.teacher_model[0].weight.fill_(float("nan"))
    with pytest.raises(NonFiniteLossError) as caught:
        distiller.fit()
    assert str(caught.value) == (
        "the loss component 'KL' became NaN or infinite at step 0; no checkpoint was written before it"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json", "tensorboard"]


def test_weights_that_became_nan_are_not_saved(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    distiller = distillation(settings(tmp_path, end_epoch=1, checkpoint_steps=5), batches())
    distiller.register_hook("on_step_end", lambda subject: spoil(subject.student_model, subject.step == 6))
    with caplog.at_level("WARNING", logger="kdhooks"):
        distiller.fit()
    assert CheckpointFile(tmp_path / "checkpoint.pt").read()["position"]["step"] == 5
    assert [record.getMessage() for record in caplog.records] == [
        "no checkpoint was written after step 6: 4.bias is NaN or infinite"
    ]


def spoil(student: Any, now: bool) -> None:
    if now:
        with torch.no_grad():
            student[4].bias.fill_(float("inf"))


def test_signal_handlers_are_left_alone_outside_of_the_loop(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    during: list[Any] = []
    distiller = distillation(settings(tmp_path, end_epoch=1), batches())
    distiller.register_hook("on_epoch_end", lambda _: during.append(signal.getsignal(signal.SIGINT)))
    distiller.fit()
    assert during != [before[0]]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_finished_run_is_only_evaluated_again(tmp_path: Path) -> None:
    first = long_run(tmp_path, "named", resume=False)
    weights = first.fit().state_dict()
    again = long_run(tmp_path, "named")
    trained: list[Any] = []
    again.register_hook("on_step_begin", trained.append)
    assert same(again.fit().state_dict(), weights)
    assert trained == []
    assert (again.best_score, len(again.history)) == (first.best_score, 10)
