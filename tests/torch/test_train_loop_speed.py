"""Precision and memory format of the student in the built-in loop: asked for, or chosen by timing the first batch."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks import Distillation
from kdhooks.errors import UsageError
from kdhooks.speed import Choice
from kdhooks.torch import student_choice
from kdhooks.torch.checkpoint import CheckpointFile
from tests.torch.test_ranks import free_port
from tests.torch.training_runs import NOTHING, SGD, equal, process, settings

Batches = list[tuple[Tensor, Tensor]]
FIT = {"precision": "auto", "channels_last": "auto"}


class Maps(nn.Module):
    """Images of 3 x 8 x 8 to logits of 4 classes; notes in what it computes."""

    def __init__(self, seed: int = 1, width: int = 4, dropout: float = 0.2) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.conv, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.down = nn.Conv2d(width, 8, 3, 2, bias=False)
        self.dropout, self.head = nn.Dropout(dropout), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        logits: Tensor = self.head(self.dropout(self.down(x).mean((2, 3))))
        return logits


class Recorder:
    """A hook of the user's that no copy is made of."""

    def __init__(self, calls: list[int]) -> None:
        self.calls = calls

    def __deepcopy__(self, memo: dict[int, Any]) -> Recorder:
        raise AssertionError("a hook was copied")

    def __call__(self, *_: Any) -> None:
        self.calls.append(1)


class Noisy(TensorDataset):
    def __getitem__(self, row: int) -> tuple[Tensor, ...]:
        x, y = super().__getitem__(row)
        return x + 0.1 * torch.randn(x.shape), y


def images(count: int = 4, size: int = 8) -> Batches:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count * size, 3, 8, 8, generator=generator)
    return list(zip(x.split(size), x.mean((2, 3)).argmax(1).split(size), strict=True))


def shuffled() -> DataLoader[Any]:
    parts = [torch.cat(columns) for columns in zip(*images(), strict=True)]
    return DataLoader(Noisy(*parts), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(9))


def run_of(folder: Path, loader: Any = None, *, student: nn.Module | None = None, **train: Any) -> Distillation:
    train = {"criterion": NOTHING, "optimizer": SGD} | train
    conf = settings(folder, **train)
    distiller = Distillation(conf, student_model=student or Maps(), teacher_model=Maps(2, 6))
    distiller.train_dataloader = images() if loader is None else loader
    return distiller


def by_hand(student: nn.Module, dtype: torch.dtype | None, *, last: bool, loader: Any = None, epochs: int = 2) -> None:
    if last:
        student.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9)
    torch.manual_seed(5)
    for _ in range(epochs):
        for x, y in images() if loader is None else loader:
            x = x.contiguous(memory_format=torch.channels_last) if last else x
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                loss = F.cross_entropy(student(x).float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def strides(model: nn.Module) -> dict[str, Any]:
    return {name: parameter.stride() for name, parameter in model.named_parameters()}


def are_last(model: nn.Module) -> bool:
    return all(p.is_contiguous(memory_format=torch.channels_last) for p in model.parameters() if p.ndim == 4)


def take(monkeypatch: pytest.MonkeyPatch, wanted: Choice) -> list[Choice]:
    """Make one way the fastest, on any machine; the ways that are timed, in their order."""
    seen: list[Choice] = []

    def timed(ways: Mapping[Choice, Callable[[], None]], device: torch.device) -> dict[Choice, float]:
        seen.extend(ways)
        for once in ways.values():
            once()
        return {way: 1.0 if way == wanted else 2.0 for way in ways}

    monkeypatch.setattr(student_choice, "time_in_turn", timed)
    monkeypatch.setattr(student_choice, "native_precisions", lambda device: ("fp32", "bf16"))
    return seen


@pytest.mark.parametrize("precision", [None, "bf16"])
def test_channels_last_is_that_of_a_loop_by_hand(precision: str | None, tmp_path: Path) -> None:
    distiller = run_of(tmp_path, precision=precision, channels_last=True)
    student = distiller.student_model
    before, own = strides(student), [id(parameter) for parameter in student.parameters()]
    seen: list[bool] = []
    distiller.register_hook("on_after_compute_loss", lambda _: seen.append(are_last(student)))
    assert distiller.fit() is student
    twin = Maps()
    by_hand(twin, torch.bfloat16 if precision else None, last=True)
    assert equal(student, twin)
    assert seen == [True] * 8
    assert strides(student) == before != strides(twin)
    assert [id(parameter) for parameter in student.parameters()] == own


def test_the_users_memory_format_is_put_back_after_an_error(tmp_path: Path) -> None:
    distiller = run_of(tmp_path, channels_last=True)
    student = distiller.student_model
    student.down.to(memory_format=torch.channels_last)  # one of the two is the user's own choice
    before = strides(student)

    def fail(_: Any) -> None:
        assert are_last(student)
        raise LookupError("of the user's")

    distiller.register_hook("on_step_begin", fail)
    with pytest.raises(LookupError, match="of the user's"):
        distiller.fit()
    assert strides(student) == before
    distiller.conf["distillation.train.scheduler"] = {"Cosine": {"warmup_epochs": -1}}  # fails before the first step
    with pytest.raises(Exception, match="warmup_epochs"):
        distiller.fit()
    assert strides(student) == before
    assert student_choice.choice_of(student) is None


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_fused_optimizer_with_a_past_walks_through_memory_as_the_weights_do(kind: Any, tmp_path: Path) -> None:
    students = []
    for fused in (False, True):
        student = Maps(dropout=0.0)
        options = {"lr": 0.1} | ({"momentum": 0.9} if kind is torch.optim.SGD else {})
        optimizer = kind(student.parameters(), fused=fused, **options)
        for x, y in images(2):  # its state lies as the user's weights do
            F.cross_entropy(student(x), y).backward()
            optimizer.step()
        distiller = run_of(tmp_path, student=student, channels_last=True, precision="fp32")
        distiller.optimizer = optimizer
        distiller.fit()
        for parameter in student.parameters():
            found = {value.stride() for value in optimizer.state[parameter].values() if value.shape == parameter.shape}
            assert found == {parameter.stride()} == {parameter.grad.stride()}
        for x, y in images(2):
            F.cross_entropy(student(x), y).backward()
            optimizer.step()
        students.append(student)
    torch.testing.assert_close(*(dict(one.state_dict()) for one in students), rtol=1e-4, atol=1e-5)


def test_evaluation_runs_the_student_as_the_loop_does(tmp_path: Path) -> None:
    distiller = run_of(tmp_path, precision="bf16", channels_last=True)
    distiller.conf["evaluation"] = {"accuracy": {"metric": {"topk": 1}}}
    distiller.eval_dataloader = images(1)
    seen: list[tuple[bool, torch.dtype, bool]] = []

    def look(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> None:
        seen.append((module.training, output.dtype, given[0].is_contiguous(memory_format=torch.channels_last)))

    with distiller.student_model.conv.register_forward_hook(look):
        student = distiller.fit()
    assert seen == [*[(True, torch.bfloat16, True)] * 4, (False, torch.bfloat16, True)] * 2
    best = distiller.best_model
    assert equal(best, student)
    assert distiller.best_score is not None


def test_auto_times_copies_and_leaves_all_that_is_the_users_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    timed = take(monkeypatch, Choice("fp32"))
    calls: list[int] = []
    runs = []
    for options in ({"precision": "fp32"}, FIT):
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
    asked = run_of(tmp_path, shuffled(), precision="bf16", channels_last=True)
    assert equal(chosen.fit(), asked.fit())
    assert CheckpointFile(tmp_path / "checkpoint.pt").read()["speed"] == Choice("bf16", channels_last=True).to_dict()


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


def test_compiled_in_bf16_and_channels_last_with_accumulation_and_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda forward: compile_(forward, backend="aot_eager"))
    features = {
        "IntermediateLayersKnowledgeDistillationLoss": {
            "layer_mappings": [["norm", "norm"], ["head"]],
            "loss_weights": [1.0, 1.0],
            "feature_matchers": ["conv1x1", "identity"],
            "add_origin_loss": True,
        }
    }
    students = []
    for mode in ("graph", "eager"):
        student = Maps(dropout=0.0)
        before, names, kind = strides(student), set(vars(student)), student.__class__
        distiller = run_of(
            tmp_path,
            student=student,
            precision="bf16",
            channels_last=True,
            gradient_accumulation=2,
            execution_mode=mode,
        )
        distiller.conf["distillation.train.criterion"] = features
        students.append(distiller.fit())
        assert (strides(student), set(vars(student)), student.__class__) == (before, names, kind)
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())
    torch.testing.assert_close(*(dict(one.state_dict()) for one in students), rtol=0.05, atol=0.02)


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
