"""Two processes that train one student, on one machine and as two of them, over gloo."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from kdhooks.runs import read_run
from tests.torch.training.setups import trained

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = Path(__file__).with_name("ranks_script.py")
LAUNCHED = ("RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def free_port() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1])


def started(folder: Path, mode: str, **variables: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHED}
    environment |= {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", **variables}
    command = [sys.executable, str(SCRIPT), str(folder), mode]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )


def results(folder: Path, mode: str, *processes: subprocess.Popen[str]) -> list[dict[str, Any]]:
    for process in processes:
        output, _ = process.communicate(timeout=200)
        assert process.returncode == 0, output
    found = [json.loads((folder / f"{mode}-{rank}.json").read_text(encoding="utf-8")) for rank in (0, 1)]
    assert [one["ranks"] for one in found] == [[0, 2], [1, 2]]
    return found


def assert_as_one_process(folder: Path, found: list[dict[str, Any]]) -> None:
    """Half of each batch on each of two ranks is the whole batch on one."""
    alone = trained(folder, max_epoch=4).get_student_model()
    for one in found:
        for mine, theirs in zip(one["plain"]["weights"], alone.state_dict().values(), strict=True):
            torch.testing.assert_close(torch.tensor(mine), theirs, rtol=1e-5, atol=1e-6)


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    folder = tmp_path_factory.mktemp("processes")
    return folder, results(folder, "processes", started(folder, "processes", MASTER_PORT=free_port()))


def test_num_processes_train_as_one(processes: tuple[Path, list[dict[str, Any]]]) -> None:
    assert_as_one_process(*processes)


def test_ranks_agree_on_folder_results_and_weights(processes: tuple[Path, list[dict[str, Any]]]) -> None:
    _, found = processes
    for name in ("plain", "whole", "half", "rest", "matched"):
        assert found[0][name] == found[1][name]
    assert found[0]["matcher"] == found[1]["matcher"] and len(found[0]["matcher"]) == 2


def test_several_processes_go_on_bit_for_bit(processes: tuple[Path, list[dict[str, Any]]]) -> None:
    _, found = processes
    for one in found:
        assert one["whole"]["weights"] == one["rest"]["weights"]
        assert one["whole"]["metrics"] == one["rest"]["metrics"]


def test_rank_0_leaves_the_record(processes: tuple[Path, list[dict[str, Any]]]) -> None:
    whole, rest = (read_run(processes[1][0][name]["folder"]) for name in ("whole", "rest"))
    for record in (whole, rest):
        assert record["status"] == "finished" and len(record["history"]) == 3
        assert record["confusion"]["rows"] == 32
    assert whole["steps"] == rest["steps"] and whole["confusion"] == rest["confusion"]


def test_num_nodes_train_as_one(tmp_path: Path) -> None:
    port = free_port()
    nodes = [started(tmp_path, "nodes", NODE_RANK=str(rank), MASTER_PORT=port) for rank in (0, 1)]
    assert_as_one_process(tmp_path, results(tmp_path, "nodes", *nodes))
