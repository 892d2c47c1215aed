"""Balanced terms of students that several processes train, and of sharded ones."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.parallel import DistributedDataParallel

from kdhooks import Distillation
from kdhooks.torch import KnowledgeDistillationLoss
from tests.torch.hidden_models import Net, criterion, models, total_of
from tests.torch.small_models import batches, made
from tests.torch.test_sharded import group, sharded
from tests.torch.training_runs import process

__all__ = ["group"]


def balanced(student: Any, teacher: Any) -> Distillation:
    distiller = Distillation(student_model=student, teacher_model=teacher)
    distiller.criterion = [
        KnowledgeDistillationLoss(2.0, ["CE", "KL"], [1.0, 0.5], balance="gradient"),
        criterion(balance="gradient", add_origin_loss=False),
    ]
    return distiller


def one_of_two(folder: Path, rank: int, port: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    student, teacher = models()
    wrapped = DistributedDataParallel(student)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05, momentum=0.9)
    with balanced(wrapped, teacher) as distiller:
        totals = []
        for x, y in batches(4):
            output = wrapped(x[rank::2])
            total = distiller.on_after_compute_loss(x[rank::2], output, F.cross_entropy(output, y[rank::2]))
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            totals.append(distiller.losses["total"])
        matchers = [parameter.detach() for parameter in distiller.parameters()]
        torch.save([totals, matchers, student.state_dict()], folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def test_two_ranks_keep_equal_weights_and_take_the_mean_of_their_own_gradients(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [process(one_of_two, tmp_path, rank, port) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    (totals, matchers, student), (other, theirs, twin) = (
        torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)
    )
    assert totals != other  # each rank has its own batch, and its own factors
    assert len(matchers) == 2 and all(map(torch.equal, matchers, theirs))
    assert all(torch.equal(value, twin[name]) for name, value in student.items())

    alone, teacher = models()  # one step of one process: the mean of the gradients of both halves
    x, y = batches(4)[0]
    with balanced(alone, teacher) as distiller:
        first = []
        for rank in (0, 1):
            first.append(total_of(distiller, alone, x[rank::2], y[rank::2]))
            first[-1].backward()
        assert [totals[0], other[0]] == pytest.approx([one.item() for one in first], rel=1e-5)
    assert all(parameter.grad is not None for parameter in alone.parameters())


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # torch's own, of gloo and of meshes
def test_a_sharded_student_is_balanced_like_a_plain_one(group: None) -> None:
    found = []
    for shard in (lambda model: model, sharded):
        student, teacher = shard(made(1, Net)), made(2, Net)
        optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
        with balanced(student, teacher) as distiller:
            totals = []
            for x, y in batches(4):
                total = total_of(distiller, student, x, y)
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
                totals.append(distiller.losses["total"])
            found.append(totals)
    assert found[0] == pytest.approx(found[1], rel=1e-5)
