"""A student trained by Intel's extension: it learns, comes back clean, is saved plain, and what runs without."""

from __future__ import annotations

import copy
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks import Distillation
from kdhooks.torch import LargeVocabularyDistillationLoss
from kdhooks.torch.checkpoint import CheckpointFile
from kdhooks.torch.ipex_student import IpexTraining
from tests.ipex.models import Images, ReadsItsWeight, images, labels, made

OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9, nesterov=True, weight_decay=1e-4),
    "Adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-3),
    "Adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=1e-2),
    "AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=1e-3),
}
SGD = {"SGD": {"learning_rate": 0.05, "momentum": 0.9}}


def steps(student: nn.Module, optimizer: Any, under: IpexTraining | None, *, bf16: bool, leave_every: int = 1) -> None:
    student.train()
    for number in range(4):
        if under is not None:
            under.enter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = F.cross_entropy(student(images(seed=number)).float(), labels(seed=number))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if under is not None and (number + 1) % leave_every == 0:
            under.leave()
    if under is not None:
        under.leave()


def shape(model: nn.Module) -> list[Any]:
    return [
        *((name, type(module), id(module), sorted(vars(module))) for name, module in model.named_modules()),
        *((name, id(one), one.dtype, tuple(one.shape), one.stride()) for name, one in model.named_parameters()),
    ]


def state_shape(optimizer: Any) -> list[Any]:
    return [
        (number, name, getattr(value, "shape", None), getattr(value, "dtype", None))
        for number, slots in optimizer.state_dict()["state"].items()
        for name, value in sorted(slots.items())
    ]


def student_without_dropout() -> nn.Module:
    student = made(Images)
    student.body[2].p = 0.0
    for name, parameter in student.named_parameters():
        # of no effect before a normalisation: its gradient is noise, which Adam makes as large as any
        parameter.requires_grad_(not name.endswith("conv2.bias"))
    return student


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("bf16", [False, True])
def test_it_learns_as_without_and_gives_everything_back(name: str, bf16: bool) -> None:
    if bf16 and name == "AdamW":  # `test_what_it_can_not_do` has what happens then
        return
    plain, student = student_without_dropout(), student_without_dropout()
    own, optimizer = OPTIMIZERS[name](plain.parameters()), OPTIMIZERS[name](student.parameters())
    before, attributes = shape(student), dict(vars(optimizer))
    stepped: list[Any] = []
    handle = optimizer.register_step_post_hook(lambda *_: stepped.append(1))
    steps(plain, own, None, bf16=bf16)
    steps(student, optimizer, IpexTraining(student, optimizer, bf16=bf16), bf16=bf16, leave_every=2)
    handle.remove()
    assert shape(student) == before
    assert {key: value for key, value in vars(optimizer).items() if attributes.get(key) is not value} == {}
    assert set(vars(optimizer)) == set(attributes)
    assert state_shape(optimizer) == state_shape(own)
    assert len(stepped) == 4
    plain.eval(), student.eval()
    with torch.no_grad():
        # all but SGD divide by the size of a gradient: what is rounded of a small one is enlarged
        near = {"SGD": 1e-3}.get(name, 0.02) if not bf16 else {"Adagrad": 0.25}.get(name, 0.1)
        assert float((student(images()) - plain(images())).norm() / plain(images()).norm()) < near


@pytest.mark.parametrize("bf16", [False, True])
def test_leaving_after_every_step_is_the_same_as_staying(bf16: bool) -> None:
    found = []
    for every in (1, 4):
        student = student_without_dropout()
        optimizer = OPTIMIZERS["SGD"](student.parameters())
        steps(student, optimizer, IpexTraining(student, optimizer, bf16=bf16), bf16=bf16, leave_every=every)
        found.append((student.state_dict(), optimizer.state_dict()["state"]))
    torch.testing.assert_close(*found, rtol=0, atol=0)


def test_a_failure_on_the_way_in_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    student = student_without_dropout().train()
    optimizer = OPTIMIZERS["SGD"](student.parameters())
    steps(student, optimizer, None, bf16=False)
    before, weights, attributes = shape(student), copy.deepcopy(student.state_dict()), set(vars(optimizer))
    kept = copy.deepcopy(optimizer.state_dict()["state"])
    import intel_extension_for_pytorch as extension

    def fails(*_: Any, **__: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(extension.frontend, "optimizer_fusion", fails)
    under = IpexTraining(student, optimizer, bf16=True)
    with pytest.raises(RuntimeError, match="no room"):
        under.enter()
    assert shape(student) == before and set(vars(optimizer)) == attributes
    torch.testing.assert_close(student.state_dict(), weights, rtol=0, atol=0)
    torch.testing.assert_close(optimizer.state_dict()["state"], kept, rtol=0, atol=0)


# ---- fit() ---------------------------------------------------------------------------------------------


def distillation(folder: Path, student: nn.Module | None = None, **train: Any) -> Distillation:
    criterion = {"KnowledgeDistillationLoss": {"temperature": 2.0, "loss_weights": [0.5, 0.5]}}
    conf = {
        "distillation": {"train": {"end_epoch": 2, "optimizer": SGD, "criterion": criterion, "ipex": True} | train},
        "tuning": {"workspace": {"path": str(folder)}, "random_seed": 5},
    }
    distiller = Distillation(
        conf, student_model=made(Images) if student is None else student, teacher_model=made(Images, 4, width=32)
    )
    distiller.train_dataloader = DataLoader(TensorDataset(images(64), labels(64)), batch_size=16)
    return distiller


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if "without Intel" in record.message]


@pytest.fixture(autouse=True)
def listening(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "kdhooks")


@pytest.mark.parametrize("precision", [None, "fp32", "bf16"])
def test_fit_returns_the_users_own_student(precision: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    distiller = distillation(tmp_path, precision=precision, gradient_clipping=1.0, gradient_accumulation=2)
    student = distiller.student_model
    before, weights = shape(student), copy.deepcopy(student.state_dict())
    assert distiller.fit() is student
    assert shape(student) == before
    assert not any(torch.equal(weights[name], value) for name, value in student.state_dict().items() if value.ndim > 1)
    first, last = (record["losses"]["total"] for record in distiller.history)
    assert last < first
    assert complaints(caplog) == []
    copy.deepcopy(student).load_state_dict(weights)


def test_hidden_layers_and_their_matchers_train(tmp_path: Path) -> None:
    criterion = {
        "IntermediateLayersKnowledgeDistillationLoss": {
            "layer_mappings": [["stage1.conv2", "stage1.conv2"], ["stage2", "stage2"]],
            "feature_matchers": ["conv1x1"],
            "add_origin_loss": True,
        }
    }
    distiller = distillation(tmp_path, precision="bf16", criterion=criterion, end_epoch=3)
    seen: list[list[Tensor]] = []
    distiller.register_hook(
        "on_epoch_end", lambda *_: seen.append([one.detach().clone() for one in distiller.parameters()])
    )
    student = distiller.fit()
    first, *_, last = distiller.history
    assert all(last["losses"][name] < first["losses"][name] for name in ("MSE[stage1.conv2]", "MSE[stage2]"))
    assert seen[0] and not any(torch.equal(one, other) for one, other in zip(seen[0], seen[-1], strict=True))
    assert not any(module._forward_hooks for module in student.modules())


def test_an_exception_gives_the_student_back_too(tmp_path: Path) -> None:
    distiller = distillation(tmp_path, precision="bf16")
    student, calls = distiller.student_model, []
    before = shape(student)

    def fails(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("in the middle of an epoch")

    distiller.register_hook("on_step_end", fails)
    with pytest.raises(RuntimeError, match="in the middle of an epoch"):
        distiller.fit()
    assert shape(student) == before
    assert all(bool(torch.isfinite(one).all()) for one in student.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_checkpoint_is_plain_and_continues_the_run(precision: Any, tmp_path: Path) -> None:
    whole = distillation(tmp_path / "whole", precision=precision).fit()
    distillation(tmp_path / "parts", precision=precision, end_epoch=1).fit()
    (path,) = (tmp_path / "parts").rglob("checkpoint.pt")
    content = CheckpointFile(path).read()
    plain = made(Images)
    plain.load_state_dict(content["student"])
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.05, momentum=0.9)
    optimizer.load_state_dict(content["optimizer"]["state"])
    buffers = [slots["momentum_buffer"] for slots in optimizer.state_dict()["state"].values()]
    assert [(one.shape, one.dtype) for one in buffers] == [(one.shape, torch.float32) for one in plain.parameters()]
    plainly = {"channels_last": False, "compile": False, "folded": False}
    assert content["speed"] == {"precision": precision, "ipex": True, **plainly}

    rest = distillation(tmp_path / "parts", student=made(Images, 9), precision=precision)
    rest.conf["tuning.workspace.resume"] = True
    torch.testing.assert_close(rest.fit().state_dict(), whole.state_dict(), rtol=0, atol=0)


def test_the_best_weights_are_found_by_evaluating_the_plain_student(tmp_path: Path) -> None:
    distiller = distillation(tmp_path, precision="bf16", end_epoch=3)
    kinds: set[type] = set()

    def score(model: nn.Module) -> float:
        kinds.update(type(module) for module in model.modules())
        with torch.no_grad():
            return float((model(images(64)).argmax(1) == labels(64)).float().mean())

    distiller.eval_func = score
    student = distiller.fit()
    assert kinds == {type(module) for module in made(Images).modules()}
    assert score(student.eval()) == distiller.best_score


def test_auto_takes_the_fastest_way_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    distillation(tmp_path, precision="auto", channels_last="auto", ipex="auto", end_epoch=1).fit()
    (line,) = [record.message for record in caplog.records if record.message.startswith("student: ")]
    assert "bf16, ipex" in line and "fp32, ipex" in line and "bf16, channels last" in line
    assert complaints(caplog) == []


@pytest.mark.parametrize(
    ("train", "reason"),
    [
        ({"precision": "bf16", "optimizer": {"AdamW": {}}}, "it can't step AdamW in bf16"),
        ({"optimizer": {"LBFGS": {}}}, "it can't step LBFGS in fp32"),
        ({"optimizer": {"SGD": {"maximize": True}}}, "its step of SGD doesn't know maximize"),
        ({"precision": "fp16"}, "it trains in fp32 and bf16, not in fp16"),
    ],
)
def test_what_it_can_not_do_is_done_without_it(
    train: dict[str, Any], reason: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    distillation(tmp_path, end_epoch=1, iteration=1, **train).fit()
    assert complaints(caplog) == [f"the student is trained without Intel's extension: {reason}"]


def test_a_student_that_reads_packed_weights_is_found_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    distillation(tmp_path, student=made(ReadsItsWeight), precision="bf16", end_epoch=1).fit()
    (line,) = complaints(caplog)
    assert line.startswith("the student is trained without Intel's extension: ")


@pytest.mark.parametrize("set_by", ["configuration", "program"])
def test_a_head_that_is_read_by_the_criterion_is_not_packed(
    set_by: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    models = [nn.Sequential(nn.Embedding(20, width), nn.Linear(width, 20)) for width in (8, 16)]
    named = {"LargeVocabularyDistillationLoss": {"student_head": "1"}}
    distiller = distillation(tmp_path, student=models[0], end_epoch=1, criterion=named)
    distiller.teacher_model = models[1]
    if set_by == "program":
        distiller.criterion = LargeVocabularyDistillationLoss("1")
    words = torch.randint(20, (8, 6))
    distiller.train_dataloader = DataLoader(TensorDataset(words, words), batch_size=4)
    distiller.fit()
    reason = "LargeVocabularyDistillationLoss reads the weight of its head"
    assert complaints(caplog) == [f"the student is trained without Intel's extension: {reason}"]


@pytest.mark.parametrize("what", ["average", "shared", "layer"])
def test_models_that_hang_together_are_trained_without_it(
    what: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if what == "layer":
        distiller = distillation(tmp_path, student=nn.Linear(4, 10))
        distiller.teacher_model = nn.Linear(4, 10)
        distiller.train_dataloader = DataLoader(TensorDataset(torch.randn(16, 4), labels(16)), batch_size=8)
        reason = "it is a single layer, which the extension would replace"
    elif what == "shared":
        distiller = distillation(tmp_path)
        distiller.teacher_model.head = nn.Linear(32, 10)
        distiller.teacher_model.head.weight = distiller.student_model.head.weight
        reason = "a teacher has some of its weights too"
    else:
        distiller = distillation(tmp_path)
        distiller.conf["distillation.teacher.ema"] = 0.9
        distiller.teacher_model = made(Images)
        reason = "the teacher is an average of its weights"
    distiller.fit()
    assert complaints(caplog) == [f"the student is trained without Intel's extension: {reason}"]
