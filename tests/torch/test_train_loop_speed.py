"""The student of the built-in loop in the precision and memory format that are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks.torch import student_choice
from tests.torch.speed_runs import Maps, are_last, by_hand, images, run_of, strides
from tests.torch.training_runs import equal


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
    distiller.conf["tuning.report"] = False  # it would run the student as well
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
