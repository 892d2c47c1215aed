"""What stands beside a loop of two processes: states, best weights, stored outputs, averages, domains, mistakes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import torch.nn.functional as F
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from kdhooks import Distillation
from kdhooks.torch import KnowledgeDistillationLoss
from tests.torch.devices.parts import (
    distiller_of,
    in_shards,
    learn,
    matching,
    on_ranks,
    ours,
    said,
    student,
    teacher,
    whole,
)
from tests.torch.hidden_models import Net
from tests.torch.small_models import batches, made

LOGITS = {"distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": {"loss_weights": [0.5, 0.5]}}}}}
DANN = {
    "distillation": {"train": LOGITS["distillation"]["train"]},
    "domain_adaptation": {"criterion": {"DANN": {"layer": "first", "hidden_size": 8}}},
}


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


# ---- what the ranks do -----------------------------------------------------------------------------


def resumed(rank: int, folder: Path) -> list[Any]:
    """Six steps in one go; and three, a state of torch's checkpoints, and three with new models."""
    found = []
    for stops in (False, True):
        model = in_shards(student())
        optimizer = sgd(model)
        with distiller_of(model, teacher()) as distiller:
            learn(distiller, model, optimizer, steps=3, ranks=(rank, 2))
            if not stops:
                learn(distiller, model, optimizer, steps=3, first=3, ranks=(rank, 2))
                found.append([ours(distiller), whole(model)])
                continue
            state = {"kd": distiller.state_dict(), "model": model.state_dict()}
            optimizer_state = copy.deepcopy(optimizer.state_dict())
            dcp.save(state, checkpoint_id=folder / "dcp")
        model = in_shards(made(7, Net))
        with distiller_of(model, teacher()) as distiller:
            learn(distiller, model, sgd(model), steps=1, ranks=(rank, 2))  # a state is read into one of its form
            loaded = {"kd": distiller.state_dict(), "model": model.state_dict()}
            dcp.load(loaded, checkpoint_id=folder / "dcp")
        model = in_shards(made(8, Net))
        optimizer = sgd(model)
        model.load_state_dict(loaded["model"])
        optimizer.load_state_dict(optimizer_state)
        again = distiller_of(model, teacher())
        again.load_state_dict(loaded["kd"])
        with again:
            learn(again, model, optimizer, steps=3, first=3, ranks=(rank, 2))
            found.append([ours(again), whole(model)])
    return found


def best(rank: int, folder: Path) -> list[Any]:
    """Ranks whose own scores differ keep the same weights; the best model is whole, and an ordinary one."""
    model = in_shards(student())
    model.first.register_forward_hook(noted)
    optimizer, scores = sgd(model), iter([[0.1, 0.9], [0.8, 0.2], [0.3, 0.5]])
    distiller = distiller_of(model, teacher())
    distiller.eval_func = lambda one: (one(torch.zeros(1, 6)), next(scores)[rank])[1]
    kept = []
    with distiller:
        for epoch in range(3):
            learn(distiller, model, optimizer, steps=1, first=epoch, ranks=(rank, 2))
            kept.append(whole(model))
            distiller.on_epoch_end()
        clean = distiller.best_model
    copies = [type(clean) is Net, sorted(vars(clean)) == sorted(vars(student())), len(clean.first._forward_hooks)]
    again = pickle.loads(pickle.dumps(copy.deepcopy(clean)))
    output = again(torch.ones(1, 6)) - clean(torch.ones(1, 6))
    return [clean.state_dict(), kept, distiller.best_score, copies, float(output.detach().abs().max())]


def noted(*_: Any) -> None:
    """A hook of the user's."""


def stored(rank: int, folder: Path) -> list[Any]:
    """A teacher in shards whose rows one rank has already, and then both; the store is one of a whole teacher."""
    conf = copy.deepcopy(LOGITS) | {}
    conf["distillation"]["cache"] = {"path": str(folder / f"cache{rank}")}
    data, found = batches(4), []
    for kind in ("whole", "on request", "by hand"):
        conf["distillation"]["teacher"] = {"sharded": kind == "on request"}
        model, other = student(), teacher()
        if kind == "whole":
            if rank == 0:  # this rank's store has all rows that it will meet
                with Distillation(conf, student_model=model, teacher_model=other) as distiller:
                    for x, y in data:
                        output = model(x[rank::2])
                        distiller.on_after_compute_loss(x[rank::2], output, F.cross_entropy(output, y[rank::2]))
            continue
        one = in_shards(model)
        other = in_shards(other) if kind == "by hand" else other
        optimizer, losses = sgd(one), []
        with Distillation(conf, student_model=one, teacher_model=other) as distiller, distiller.profile() as ledger:
            for x, y in data:
                output = one(x[rank::2])
                total = distiller.on_after_compute_loss(x[rank::2], output, F.cross_entropy(output, y[rank::2]))
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
                losses.append(distiller.losses["KL"])
        counts = ledger.to_dict()["counts"]
        found.append([losses, counts.get("hits", 0), counts.get("misses", 0)])
    return found


def average(rank: int, folder: Path) -> list[Any]:
    """A teacher that follows a student in shards, and goes on from a state."""
    conf = copy.deepcopy(LOGITS)
    conf["distillation"]["teacher"] = {"ema": 0.5}
    model = in_shards(student())
    with distiller_of(model, None, conf, criteria=False) as distiller:
        losses = learn(distiller, model, sgd(model), steps=4, ranks=(rank, 2))
        state = distiller.state_dict()["teachers"]["teacher"]
    return [losses, state]


def adapted(rank: int, folder: Path) -> list[Any]:
    """A discriminator, and terms that are balanced by their gradients, with a student in shards."""
    model = in_shards(student())
    optimizer = sgd(model)
    with distiller_of(model, teacher(), DANN, criteria=False) as distiller:
        totals = domain_steps(distiller, model, optimizer, lambda one: one[rank::2])
        found = [totals, ours(distiller), whole(model)]
    model = in_shards(student())
    optimizer = sgd(model)
    criteria = [KnowledgeDistillationLoss(2.0, ["CE", "KL"], [1.0, 0.5], balance="gradient")]
    criteria.append(matching(balance="gradient", add_origin_loss=False))
    with distiller_of(model, teacher(), criteria=criteria) as distiller:
        learn(distiller, model, optimizer, steps=3, ranks=(rank, 2))
        return [*found, ours(distiller), whole(model)]


def domain_steps(distiller: Distillation, model: Any, optimizer: torch.optim.Optimizer, share: Any) -> list[float]:
    totals, data = [], batches(8)
    for index in range(4):
        (x, y), (other, _) = data[index], data[index + 4]
        output = model(share(x))
        loss = F.cross_entropy(output, share(y))
        total = distiller.on_after_compute_loss(share(x), output, loss, target=share(y), target_input=share(other))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        totals.append(float(total.detach()))
    return totals


def mistakes(rank: int, folder: Path) -> list[str]:
    found = []
    for criteria in (None, KnowledgeDistillationLoss(2.0)):  # with matchers, and without
        model = student()
        distiller = distiller_of(model, teacher(), criteria=criteria)
        distiller.on_train_begin()
        one = in_shards(model)
        found.append(said(lambda distiller=distiller, one=one: learn(distiller, one, sgd(one), steps=1)))
        distiller.on_train_end()

    conf = copy.deepcopy(LOGITS)
    conf["distillation"]["train"]["criterion"]["KnowledgeDistillationLoss"]["temperature"] = 2.0 + rank
    one = in_shards(student())
    found.append(said(distiller_of(one, teacher(), conf, criteria=False).on_train_begin))

    wrapped = DistributedDataParallel(student())
    with distiller_of(wrapped, teacher()) as distiller, wrapped.join():
        found.append(said(lambda: learn(distiller, wrapped, sgd(wrapped), steps=1, ranks=(rank, 2))))

    shares = student()
    theirs = teacher()
    theirs.head = shares.head  # type: ignore[assignment]
    with distiller_of(shares, theirs, {"distillation": {"teacher": {"sharded": True}}}) as distiller:
        found.append(said(lambda: learn(distiller, shares, sgd(shares), steps=1)))

    conf = copy.deepcopy(LOGITS)
    conf["distillation"]["teacher"] = {"ema": 0.5}
    found.append(said(distiller_of(in_shards(student()), student(), conf, criteria=False).on_train_begin))

    scalar = teacher()
    scalar.scale = nn.Parameter(torch.tensor(1.0))  # type: ignore[assignment]
    with distiller_of(student(), scalar, {"distillation": {"teacher": {"sharded": True}}}) as distiller:
        one = distiller.student_model
        found.append(said(lambda: learn(distiller, one, sgd(one), steps=1)))
    return found


def everything(rank: int, folder: Path) -> dict[str, Any]:
    jobs = (resumed, best, stored, average, adapted, mistakes)
    return {job.__name__: job(rank, folder) for job in jobs}


# ---- what is expected of it ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return on_ranks(everything, tmp_path_factory.mktemp("more"))


def same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_a_run_goes_on_from_a_distributed_checkpoint_bit_for_bit(ranks: list[Any]) -> None:
    for found in ranks:
        same(*found["resumed"])
    same(ranks[0]["resumed"], ranks[1]["resumed"])


def test_the_first_ranks_score_decides_and_the_best_model_is_whole(ranks: list[Any]) -> None:
    for weights, kept, score, copies, difference in (found["best"] for found in ranks):
        same(dict(weights), dict(kept[1]))
        assert (score, copies, difference) == (0.8, [True, True, 1], 0.0)


def test_ranks_wait_for_no_one_where_one_has_stored_what_the_other_has_not(ranks: list[Any]) -> None:
    """Rank 0 has all of its rows from the beginning, rank 1 has them when the teacher is sharded by hand."""
    for rank, found in enumerate(ranks):
        on_request, by_hand = found["stored"]
        assert on_request[1:] == ([16, 0] if rank == 0 else [0, 16])
        assert by_hand[1:] == [16, 0]
        assert on_request[0] == pytest.approx(by_hand[0], rel=1e-5)


def test_an_average_of_a_sharded_student_is_that_of_a_whole_one(ranks: list[Any]) -> None:
    conf = copy.deepcopy(LOGITS)
    conf["distillation"]["teacher"] = {"ema": 0.5}
    model = student()
    with distiller_of(model, None, conf, criteria=False) as distiller:
        losses = learn(distiller, model, sgd(model), steps=4)
        expected = distiller.state_dict()["teachers"]["teacher"]
    (one, average_of_one), (other, average_of_other) = (found["average"] for found in ranks)
    assert [(a + b) / 2 for a, b in zip(one, other, strict=True)] == pytest.approx(losses, rel=1e-5)
    same(average_of_one, average_of_other)
    torch.testing.assert_close(average_of_one, expected, rtol=1e-4, atol=1e-6)


def test_discriminators_and_balanced_terms_are_equal_on_all_ranks(ranks: list[Any]) -> None:
    same(ranks[0]["adapted"][1:], ranks[1]["adapted"][1:])
    model = student()
    with distiller_of(model, teacher(), DANN, criteria=False) as distiller:
        totals = domain_steps(distiller, model, sgd(model), lambda one: one)
        expected = ours(distiller)
    both = zip(ranks[0]["adapted"][0], ranks[1]["adapted"][0], strict=True)
    assert [(one + other) / 2 for one, other in both] == pytest.approx(totals, rel=1e-5)
    torch.testing.assert_close(ranks[0]["adapted"][1], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ranks[0]["adapted"][2], dict(model.state_dict()), rtol=1e-4, atol=1e-6)


def test_mistakes_are_errors_and_no_deadlocks(ranks: list[Any]) -> None:
    late = (
        "ModelError: the student Net was sharded after on_train_begin(), and its optimizer holds other parameters now. "
        "Call fully_shard first, then make the optimizer, then call on_train_begin()"
    )
    expected = [
        late,
        late,
        "UsageError: the ranks that train together have different settings: distillation.train.criterion[0].options."
        "temperature is 2.0 on rank 0 and 3.0 on rank 1. They would wait for each other for ever: give all the same",
        "ModelError: the feature matchers can't be trained inside of join(): a rank without batches would not take "
        "part in the mean of their gradients. Give all ranks equally many batches, as DistributedSampler does",
        "ModelError: distillation.teacher.sharded: the teacher Wide has weights that are the student's too. Leave "
        "sharded out",
        "ConfigError: <dict>: distillation.teacher.ema: with ema the teacher is an average of the student, and one of "
        "them is sharded: shard both alike\n  Leave teacher_model unset: the average "
        "begins as the student.",
        "ModelError: the Wide can't be sharded: fully_shard doesn't support scalar parameters. Change scale to a 1D "
        "tensor with numel equal to 1.",
    ]
    for found in ranks:
        assert found["mistakes"] == expected


# ---- four ranks ------------------------------------------------------------------------------------


def hybrid(rank: int, folder: Path) -> list[Any]:
    """Shards over two ranks, twice; the teacher in the same mesh, and one over half of the ranks."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    found: list[Any] = []
    for teachers in ("whole", "on request"):
        model = student()
        fully_shard(model, mesh=mesh)
        conf = {"distillation": {"teacher": {"sharded": teachers == "on request"}}}
        with distiller_of(model, teacher(), conf) as distiller:
            losses = learn(distiller, model, sgd(model), steps=4, ranks=(rank, 4))
            found.append([losses, ours(distiller), whole(model)])
    half = init_device_mesh("cpu", (2, 2), mesh_dim_names=("one", "other"))["other"]
    pair = [0, 1] if rank < 2 else [2, 3]
    groups = [dist.new_group([0, 1]), dist.new_group([2, 3])]
    model = DistributedDataParallel(student(), process_group=groups[rank // 2])
    with distiller_of(model, in_shards(teacher(), init_device_mesh("cpu", (4,)))) as distiller:
        found.append([pair, said(lambda: learn(distiller, model, sgd(model), steps=1, ranks=(rank, 4)))])
    with distiller_of(model, in_shards(teacher(), half), criteria=KnowledgeDistillationLoss(2.0)) as distiller:
        found.append(said(lambda: learn(distiller, model, sgd(model), steps=1, ranks=(rank, 4))))
    return found


def test_a_mesh_of_two_dimensions_trains_as_one_process(tmp_path: Path) -> None:
    found = on_ranks(hybrid, tmp_path, 4)
    model = student()
    with distiller_of(model, teacher()) as distiller:
        losses = learn(distiller, model, sgd(model), steps=4)
        matchers = ours(distiller)
    for case in (0, 1):
        means = [sum(step) / 4 for step in zip(*(one[case][0] for one in found), strict=True)]
        assert means == pytest.approx(losses, rel=1e-5)
        for one in found:
            same(one[case][1:], found[0][case][1:])
        torch.testing.assert_close(found[0][case][1], matchers, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found[0][case][2], dict(model.state_dict()), rtol=1e-4, atol=1e-6)
    for *_, (pair, message), fits in found:
        own, more = ", ".join(map(str, pair)), ", ".join(str(rank) for rank in range(4) if rank not in pair)
        assert message == (
            "ModelError: the teacher Wide is shared out over ranks 0, 1, 2, 3, and the student is trained by ranks "
            f"{own}: without {more} the teacher's forward would wait for ever. Shard the teacher over the ranks that "
            "train the student"
        )
        assert fits == "no error"
