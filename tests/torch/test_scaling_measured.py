"""The formulas of `kdhooks.scaling` against what two processes allocate, to the byte, and exchange."""

from __future__ import annotations

import socket
from typing import Any

import pytest
import torch

from kdhooks.scaling import Estimate, estimate
from tests.torch.scaling_case import CASES, LENGTH, ROWS, STUDENT, TEACHER, one_of_two, sizes
from tests.torch.training_runs import process


def expected(case: str) -> Estimate:
    """What `estimate` says of a case."""
    return estimate(
        sizes(*STUDENT),
        None if case == "alone student" else sizes(*TEACHER),
        ranks=1 if case.startswith("alone") else 2,
        strategy="fsdp" if case.startswith("fsdp") else "ddp",
        teaching="sharded" if case == "fsdp" else "replicated",
        precision="mixed" if case == "alone mixed" else "fp32",
        teacher_precision="fp32",
        tokens=ROWS * LENGTH,
        checkpointing=case == "alone checkpointed",
        bucket_views=case == "ddp views",
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("measured")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [process(one_of_two, folder, rank, port) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(150)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    found: dict[str, Any] = torch.load(folder / "0.pt", weights_only=True)
    assert sorted(found) == sorted(CASES)
    return found


@pytest.mark.parametrize("case", CASES)
def test_what_stays_between_two_steps(measured: dict[str, Any], case: str) -> None:
    """One part in a thousand."""
    found, formula = measured[case]["kept"], expected(case).kept_bytes
    assert 0.999 * formula <= found <= 1.001 * formula


@pytest.mark.parametrize("case", CASES)
def test_what_is_allocated_at_the_peak(measured: dict[str, Any], case: str) -> None:
    """Six parts in a hundred."""
    assert measured[case]["peak"] == pytest.approx(expected(case).memory_bytes, rel=0.06)


@pytest.mark.parametrize("case", CASES)
def test_what_is_sent(measured: dict[str, Any], case: str) -> None:
    """To the byte."""
    sent, formula = measured[case]["sent"], expected(case).traffic
    assert sent.get("allreduce_", 0) == formula.get("gradients' all-reduce", 0)
    assert sent.get("_reduce_scatter_base_", 0) == formula.get("gradients' reduce-scatter", 0)
    gathered = formula.get("weights' all-gather", 0) + formula.get("teacher's all-gather", 0)
    assert sent.get("_allgather_base_", 0) == gathered
    assert bool(formula) == (not case.startswith("alone"))
