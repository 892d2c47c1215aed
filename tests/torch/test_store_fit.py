"""Stored outputs under the built-in loop, after a resume, with compiled students, on several ranks, and in `check`."""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdhooks import Distillation
from kdhooks.cache import maintenance
from kdhooks.criterion import Step
from kdhooks.ledger import Ledger
from tests.torch.stored_runs import IMAGES, LABELS, LAYERS, LOGITS, ROWS, configured, run, student, teacher, watched
from tests.torch.training_runs import process


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "images.npz"
    np.savez(path, inputs=IMAGES.numpy(), targets=LABELS.numpy())
    return {"batch_size": 8, "shuffle": True, "dataset": {"npz": {"path": str(path)}}}


def fitted(
    tmp_path: Path, data: dict[str, Any], *, run_of: str, epochs: int = 3, **more: Any
) -> tuple[Tensor, list[int]]:
    """Weights of the student, and the sizes of the teacher's batches."""
    learner, taught, forwards = student(), teacher(), list[int]()
    conf = configured(more.pop("store", tmp_path / "store"), {**LOGITS, **LAYERS})
    conf["distillation"]["train"] |= {"end_epoch": epochs, "dataloader": data, **more.pop("train", {})}
    conf["tuning"] = {"random_seed": 5, "workspace": {"path": str(tmp_path / run_of), **more}}
    handle = watched(taught, forwards)
    Distillation(conf, student_model=learner, teacher_model=taught).fit()
    handle.remove()
    return torch.cat([weight.detach().flatten() for weight in learner.parameters()]), forwards


def test_fit_from_an_empty_and_from_a_full_store(tmp_path: Path, data: dict[str, Any]) -> None:
    live = fitted(tmp_path, data, run_of="live", store=None)
    cold = fitted(tmp_path, data, run_of="cold")
    warm = fitted(tmp_path, data, run_of="warm")
    assert torch.equal(cold[0], warm[0])
    assert cold[1] == [8, 8, 8] and warm[1] == []
    torch.testing.assert_close(cold[0], live[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first_store", ["empty", "full"])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path, data: dict[str, Any], first_store: str) -> None:
    whole = fitted(tmp_path, data, run_of="whole", store=tmp_path / "other")
    if first_store == "full":
        fitted(tmp_path, data, run_of="before")
    fitted(tmp_path, data, run_of="parts", epochs=1)
    resumed = fitted(tmp_path, data, run_of="parts", resume=True)
    assert torch.equal(resumed[0], whole[0])
    assert resumed[1] == []


def test_a_student_in_low_precision(tmp_path: Path, data: dict[str, Any]) -> None:
    train = {"precision": "bf16"}
    cold = fitted(tmp_path, data, run_of="cold", train=train)
    warm = fitted(tmp_path, data, run_of="warm", train=train)
    assert torch.equal(cold[0], warm[0])
    assert warm[1] == []


def test_a_compiled_student(tmp_path: Path) -> None:
    def trained() -> tuple[Tensor, list[int]]:
        learner: Any = torch.compile(student(), backend="eager")
        ran = run(configured(tmp_path / "store", {**LOGITS, **LAYERS}), models=(learner, teacher()))
        return ran.weights, ran.forwards

    cold, warm = trained(), trained()
    assert torch.equal(cold[0], warm[0])
    assert cold[1] == [8, 8, 8] and warm[1] == []


def test_check_touches_no_store(tmp_path: Path) -> None:
    distiller = Distillation(configured(tmp_path / "store"), student_model=student(), teacher_model=teacher())
    report = distiller.check([(IMAGES[:8], LABELS[:8]), (IMAGES[8:16], LABELS[8:16])])
    assert str(report)
    assert not (tmp_path / "store").exists()


class Counts(Ledger):
    """Notes what is counted and timed."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.parts: list[str] = []

    def part(self, name: str) -> AbstractContextManager[object]:
        self.parts.append(name)
        return nullcontext()

    def count(self, name: str, number: int) -> None:
        self.counts[name] = self.counts.get(name, 0) + number


def test_hits_and_misses_are_counted(tmp_path: Path) -> None:
    with Distillation(configured(tmp_path / "store"), student_model=student(), teacher_model=teacher()) as distiller:
        (stored,) = distiller._run.teachers.values()  # type: ignore[union-attr]
        counts = Counts()
        for rows in (IMAGES[:6], IMAGES[4:10], IMAGES[:10]):
            stored(rows, Step(0, rows, None, ledger=counts))
            stored.on_after_compute_loss()
    assert counts.counts == {"hits": 2 + 10, "misses": 6 + 4}
    assert set(counts.parts) == {"cache"}


# ---- several ranks -------------------------------------------------------------------------------------


def one_of_two(folder: Path, rank: int, port: int, precision: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    learner, taught, forwards = student(), teacher(), list[int]()
    watched(taught.head, forwards)
    wrapped = DistributedDataParallel(learner)
    optimizer = torch.optim.SGD(learner.parameters(), lr=0.05)
    conf = configured(folder / "store", {**LOGITS, **LAYERS}, teacher={"precision": precision})
    with Distillation(conf, student_model=wrapped, teacher_model=taught) as distiller:
        for _ in range(2):
            for some in torch.arange(ROWS).split(8):
                x, y = IMAGES[some[rank::2]], LABELS[some[rank::2]]
                output = wrapped(x)
                total = distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y))
                optimizer.zero_grad()
                total.backward()
                optimizer.step()
            distiller.on_epoch_end()
        chosen = str(distiller._run.teachers["teacher"].choice)  # type: ignore[union-attr]
    weights = {name: weight.detach() for name, weight in learner.named_parameters()}  # each rank has its own averages
    torch.save([weights, forwards, chosen], folder / f"rank{rank}.pt")
    dist.destroy_process_group()


def two_ranks(folder: Path, precision: str) -> list[Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = [process(one_of_two, folder, rank, port, precision) for rank in (0, 1)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(120)
    assert [rank.exitcode for rank in ranks] == [0, 0]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_two_ranks_share_one_store(tmp_path: Path, precision: str) -> None:
    first, second = two_ranks(tmp_path, precision)
    assert all(torch.equal(value, second[0][name]) for name, value in first[0].items())
    assert maintenance.info(tmp_path / "store").rows == ROWS
    again, other = two_ranks(tmp_path, precision)
    assert all(torch.equal(value, again[0][name]) for name, value in first[0].items())
    assert again[1] == other[1] == []
    assert again[2] == other[2] == first[2] == second[2]


def test_a_kept_choice_is_adopted_without_timing() -> None:
    from kdhooks.speed import Choice
    from kdhooks.torch.stored_choice import _of_first_rank, settled
    from kdhooks.torch.teacher import Teacher

    class Kept:
        def __init__(self, found: Choice | None) -> None:
            self.found, self.written = found, list[Choice]()

        def read(self) -> Choice | None:
            return self.found

        def write(self, choice: Choice) -> None:
            self.written.append(choice)

    assert _of_first_rank(True) and not _of_first_rank(False)
    live = Teacher(nn.Linear(2, 2), nn.Linear(2, 2), precision="auto")
    live.on_train_begin()
    kept: Any = Kept(Choice("bf16"))
    assert settled(live, torch.zeros(1, 2), lambda: kept) == Choice("bf16")
    assert kept.written == [Choice("bf16")]
