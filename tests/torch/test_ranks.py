"""Two processes that train one student."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from kdhooks.errors import CheckpointError
from kdhooks.torch.checkpoint import CheckpointFile
from tests.torch.training_runs import distributed_run, one_of_two, process


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
    return port


def both(folder: Path, *args: Any) -> list[int | None]:
    """Run two processes to their end; their exit codes."""
    port = free_port()
    processes = [process(one_of_two, folder, rank, port, *args) for rank in range(2)]
    for started in processes:
        started.start()
    for started in processes:
        started.join(60)
    return [started.exitcode for started in processes]


def weights_of(folder: Path) -> list[Any]:
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(2)]


def test_two_ranks_learn_what_one_process_learns(tmp_path: Path) -> None:
    assert both(tmp_path) == [0, 0]
    results = weights_of(tmp_path)

    # 2 x 4 rows a step are the rows of a batch of 8, and gradients are averaged over the ranks
    alone = distributed_run(tmp_path / "alone", batch_size=8, gradient_accumulation=2)
    weights = dict(alone.fit().state_dict())
    for result in results:
        torch.testing.assert_close(result["student"], weights, rtol=1e-5, atol=1e-6)
        assert (result["left"], result["type"]) == ([0, 0, 0, 0], "Sequential")
    assert all(torch.equal(value, results[1]["student"][name]) for name, value in results[0]["student"].items())

    content = CheckpointFile(tmp_path / "checkpoint.pt").read()
    assert content["position"] == {"epoch": 2, "batch": 0, "step": 16}
    assert len(content["ranks"]) == 2
    assert not torch.equal(*(one["now"]["rng"]["torch"] for one in content["ranks"]))


def test_one_process_needs_no_group(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="kdhooks"):
        student = distributed_run(tmp_path).fit()
    assert caplog.records[0].getMessage() == ("dataloader.distributed: one process is running; torchrun starts several")
    assert not torch.distributed.is_initialized()
    twin = distributed_run(tmp_path)
    twin.conf["distillation.train.dataloader.distributed"] = False
    torch.testing.assert_close(student.state_dict(), twin.fit().state_dict(), rtol=0, atol=0)


def test_a_signal_to_one_rank_stops_both_and_both_go_on(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert both(whole, 0.3) == [0, 0]
    assert both(stopped, 0.3, True) == [143, 143]
    position = CheckpointFile(stopped / "checkpoint.pt").read()["position"]
    assert position == {"epoch": 0, "batch": 4, "step": 4}  # the ranks agree one optimizer step later
    again = distributed_run(stopped)
    again.conf["tuning.workspace.resume"] = True
    with pytest.raises(CheckpointError) as caught:
        again.fit()
    assert str(caught.value) == (
        f"the checkpoint {stopped}/checkpoint.pt was written by 2 processes, and this run has 1: the order of the "
        "data would be another one"
    )
    assert both(stopped, 0.3) == [0, 0]
    for one, other in zip(weights_of(whole), weights_of(stopped), strict=True):
        assert all(torch.equal(value, other["student"][name]) for name, value in one["student"].items())
