"""Two processes with loops of their own, DistributedDataParallel and fully_shard, against one with the same rows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel

from tests.torch.devices.parts import (
    distiller_of,
    in_shards,
    learn,
    on_ranks,
    ours,
    student,
    teacher,
    whole,
)

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, foreach=True),
    "fused": lambda parameters: torch.optim.AdamW(parameters, lr=0.01, fused=True),
}
SHARDED = {"distillation": {"teacher": {"sharded": True}}}


def run(
    rank: int | None,
    kind: str,
    optimizer: str = "SGD",
    teachers: str = "whole",
    half: bool = False,
    **options: Any,
) -> list[Any]:
    """Losses, our parameters, the student's, what the teacher ran, and the optimizer's groups."""
    model, other = student(), teacher()
    one = in_shards(model) if kind == "fsdp2" else model
    other = in_shards(other) if teachers == "by hand" and rank is not None else other
    forward = DistributedDataParallel(model) if kind == "ddp" else one
    made = OPTIMIZERS[optimizer](one.parameters())
    if kind == "fsdp2":
        options["waiting"] = lambda last: exchanging(one, last)
    elif kind == "ddp":
        options["waiting"] = lambda last: exchanging(forward, last)
    if half:
        options["scaler"] = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with distiller_of(one, other, SHARDED if teachers == "on request" else None) as distiller:
        losses = learn(distiller, forward, made, ranks=(0, 1) if rank is None else (rank, 2), **options)
        found = [losses, ours(distiller), whole(one), len(other._ran)]
        groups = [len(group["params"]) for group in made.param_groups]
        state = made.state_dict()
    return [*found, groups, [len(group["params"]) for group in state["param_groups"]]]


@contextmanager
def exchanging(model: Any, last: bool) -> Any:
    """Both ways to exchange gradients at the last of several backwards only."""
    if isinstance(model, DistributedDataParallel):
        if last:
            yield
        else:
            with model.no_sync():
                yield
        return
    model.set_requires_gradient_sync(last)
    yield


CASES: dict[str, dict[str, Any]] = {
    "ddp": {"kind": "ddp"},
    "ddp, accumulated": {"kind": "ddp", "accumulate": 3, "steps": 4, "clip": 0.5},
    "fsdp2": {"kind": "fsdp2"},
    "fsdp2, clipped": {"kind": "fsdp2", "optimizer": "AdamW", "clip": 0.5, "steps": 6},
    "fsdp2, fused": {"kind": "fsdp2", "optimizer": "fused", "steps": 6},
    "fsdp2, accumulated": {"kind": "fsdp2", "accumulate": 3, "steps": 4, "clip": 0.5},
    "fsdp2, zeros": {"kind": "fsdp2", "to_none": False, "steps": 6},
    "fsdp2, scaled": {"kind": "fsdp2", "half": True, "clip": 0.5, "steps": 6},
    "fsdp2, teacher on request": {"kind": "fsdp2", "teachers": "on request"},
    "fsdp2, teacher by hand": {"kind": "fsdp2", "teachers": "by hand", "steps": 6},
    "ddp, teacher on request": {"kind": "ddp", "teachers": "on request", "steps": 6},
}


def every_case(rank: int, folder: Path) -> Any:
    return {name: run(rank, **options) for name, options in CASES.items()}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return on_ranks(every_case, tmp_path_factory.mktemp("ranks"))


def close(one: Any, other: Any, tolerance: float) -> None:
    torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_learn_what_one_process_learns(case: str, ranks: list[Any]) -> None:
    (losses, matchers, weights, *_), (more, theirs, twin, *_) = (found[case] for found in ranks)
    options = {**CASES[case], "kind": "alone", "teachers": "whole"}
    alone, own, expected, *_ = run(None, **options)
    close([(one + other) / 2 for one, other in zip(losses, more, strict=True)], alone, 1e-5)
    assert losses != more  # each has rows of its own
    assert len(matchers) == 4 and all(map(torch.equal, matchers, theirs))
    assert all(torch.equal(value, twin[name]) for name, value in weights.items())
    close(weights, expected, 1e-4)
    close(matchers, own, 1e-4)


def test_an_optimizer_of_shards_never_shows_what_is_ours(ranks: list[Any]) -> None:
    for case in CASES:
        *_, groups, saved = ranks[0][case]
        assert (groups, saved) == (([10], [6]) if case.startswith("ddp") else ([6], [6]))


def test_a_shared_out_teacher_ends_at_its_deepest_layer(ranks: list[Any]) -> None:
    """The first forward runs whole, the others end behind the first of three layers; a copy runs on request."""
    ran = {case: ranks[0][case][3] for case in ("fsdp2", "fsdp2, teacher by hand", "fsdp2, teacher on request")}
    assert ran == {"fsdp2": 3 + 29, "fsdp2, teacher by hand": 3 + 5, "fsdp2, teacher on request": 0}
