"""Adaptation of a student that several processes train: what one process would have got with all rows."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kdhooks import Distillation
from tests.torch.domain_runs import conf, data, one
from tests.torch.training_runs import process

KERNELS = {
    "MK_MMD": {"layer": "0"},
    "JAN": {"layers": ["0", "2"]},
    "CORAL": {"layer": "2"},
    "MCC": {},
    "AFN": {"layer": "0"},
}
ADVERSARIES = {
    "DANN": {"layer": "0", "hidden_size": 9},
    "CDAN": {"layer": "0"},
    "MCD": {"head": "2"},
    "MDD": {"head": "2"},
}
RUNS: dict[str, dict[str, Any]] = {
    "adversaries": conf(ADVERSARIES),
    "kernels": conf(KERNELS, joint_forward=True),
    "alternating": conf({"DANN": {"layer": "0", "hidden_size": 9}}, alternating=True, validator="entropy"),
}


def without_batch_norm() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))


def steps(name: str, model: nn.Module, forward: Any, share: Any) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    with Distillation(RUNS[name], student_model=model) as distiller:
        for batch in data(4):
            labels = torch.tensor([0, -100, 2, 1, -100, -100])
            total = one(distiller, forward, tuple(map(share, batch)), target_labels=share(labels))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        losses, adapters = distiller.losses, [one.adapter for one in distiller.criterion[1]._work.placed.values()]
        kept = distiller.criterion[1].predictions()
    own = {f"{index}.{key}": value for index, made in enumerate(adapters) for key, value in made.state_dict().items()}
    losses = {key: value for key, value in losses.items() if key not in ("CE", "total")}  # a rank's rows alone
    return [dict(model.state_dict()), own, losses, 0 if kept is None else len(kept)]


def one_of_two(folder: Path, rank: int, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    for name in RUNS:
        model = without_batch_norm()
        torch.save(
            steps(name, model, DistributedDataParallel(model), lambda all: all[rank::2]), folder / f"{name}{rank}"
        )
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = [process(one_of_two, folder, rank, port) for rank in (0, 1)]
    for each in started:
        each.start()
    for each in started:
        each.join(120)
    assert [each.exitcode for each in started] == [0, 0]
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_two_ranks_learn_what_one_process_learns_with_the_joint_batch(name: str, ranks: Path) -> None:
    first, second = (torch.load(ranks / f"{name}{rank}", weights_only=True) for rank in (0, 1))
    for mine, other in zip(first[:2], second[:2], strict=True):
        assert all(torch.equal(value, other[key]) for key, value in mine.items())
    model = without_batch_norm()
    alone = steps(name, model, model, lambda all: all)
    assert alone[1].keys() == first[1].keys() and bool(alone[1]) == (name != "kernels")
    torch.testing.assert_close(first[:2], alone[:2], rtol=1e-4, atol=1e-5)
    assert first[2] == pytest.approx(alone[2], rel=1e-3, abs=1e-5)
    assert first[3] == alone[3]
