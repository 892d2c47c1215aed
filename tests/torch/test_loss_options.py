"""Options of losses on logits inside of `loss_types`, in Python and in a file, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdhooks import ConfigError, Distillation, DistillationConf, register_loss
from kdhooks.config.known import FEATURE_LOSSES, STUDENT_LOSSES, TEACHER_LOSSES
from kdhooks.errors import UsageError
from kdhooks.registry import REGISTERED_LOSSES
from kdhooks.torch import KnowledgeDistillationLoss
from kdhooks.torch.losses import dkd, skewed_kl
from tests.torch.hidden_models import models, total_of
from tests.torch.small_models import batches

STUDENT = torch.linspace(-2, 2, 20).reshape(4, 5).sin() * 3
TEACHER = torch.linspace(-1, 3, 20).reshape(4, 5).cos() * 3
TARGET = torch.tensor([0, 3, 1, 4])
PATH = "distillation.train.criterion.KnowledgeDistillationLoss"


def test_options_reach_the_loss() -> None:
    criterion = KnowledgeDistillationLoss(
        4.0, ["CE", {"dkd": {"alpha": 0.5, "beta": 2.0}}, {"skewed_kl": {"alpha": 0.3}}, "KL"], [0.0, 1.0, 0.5, 0.0]
    )
    found = criterion(STUDENT, TEACHER, target=TARGET)
    expected = dkd(STUDENT, TEACHER, temperature=4.0, target=TARGET, alpha=0.5, beta=2.0)
    expected = expected + 0.5 * skewed_kl(STUDENT, TEACHER, temperature=4.0, alpha=0.3)
    torch.testing.assert_close(found, expected)
    assert criterion.loss_types == ("CE", "dkd", "skewed_kl", "KL")
    assert [term.name for term in criterion.terms] == ["dkd", "skewed_kl", "KL"]


def written(folder: Path, losses: str) -> Path:
    path = folder / "kd.yaml"
    path.write_text(
        "distillation:\n  train:\n    criterion:\n      KnowledgeDistillationLoss:\n"
        f"        loss_types: {losses}\n        loss_weights: [1, 1]\n"
    )
    return path


def test_a_file_gives_the_same_numbers(tmp_path: Path) -> None:
    student, teacher = models()
    x, y = batches()[0]
    path = written(tmp_path, "[CE, {DKD: {alpha: 0.5, beta: 2}}]")
    distiller = Distillation(path, student_model=student, teacher_model=teacher)
    with distiller:
        output = student(x)
        distiller.on_after_compute_loss(x, output, torch.nn.functional.cross_entropy(output, y), target=y)
        expected = dkd(output, teacher(x), temperature=1.0, target=y, alpha=0.5, beta=2.0).detach()
        assert distiller.losses["dkd"] == pytest.approx(float(expected), rel=1e-6)


FAULTS = {
    "[CE, {dkd: {alpa: 1.0}}]": """\
kd.yaml:5:33: PATH.loss_types[1].dkd.alpa: the loss 'dkd' has no option 'alpa'
  5 |         loss_types: [CE, {dkd: {alpa: 1.0}}]
    |                                 ^^^^
  Did you mean 'alpha'?""",
    "[CE, {KL: {temperature: 2}}]": """\
kd.yaml:5:32: PATH.loss_types[1].KL.temperature: the loss 'KL' has no option 'temperature'
  5 |         loss_types: [CE, {KL: {temperature: 2}}]
    |                                ^^^^^^^^^^^
  It has no options""",
    "[CE, {dkdd: {alpha: 1.0}}]": """\
kd.yaml:5:27: PATH.loss_types[1].dkdd: unknown loss against the teacher 'dkdd'
  5 |         loss_types: [CE, {dkdd: {alpha: 1.0}}]
    |                           ^^^^
  Did you mean 'dkd'?""",
    "[CE, {dkd: 1.0}]": """\
kd.yaml:5:32: PATH.loss_types[1].dkd: expected the options of the loss by name, got 1.0
  5 |         loss_types: [CE, {dkd: 1.0}]
    |                                ^^^""",
    "[{CE: {}}, KL]": """\
kd.yaml:5:22: PATH.loss_types[0]: expected the name of a loss against the target, got a mapping
  5 |         loss_types: [{CE: {}}, KL]
    |                      ^^^^^^^^""",
    "[KL, KL]": """\
kd.yaml:5:22: PATH.loss_types[0]: 'KL' compares with the teacher, and the first of loss_types is the loss against the \
labels
  5 |         loss_types: [KL, KL]
    |                      ^^
  Known: BCE, CE, L1, MSE""",
}


@pytest.mark.parametrize("losses", FAULTS)
def test_faults_have_a_line(losses: str, tmp_path: Path) -> None:
    student, teacher = models()
    with pytest.raises(ConfigError) as caught:
        Distillation(written(tmp_path, losses), student_model=student, teacher_model=teacher).on_train_begin()
    assert str(caught.value).replace(f"{tmp_path}/", "") == FAULTS[losses].replace("PATH", PATH)


@pytest.mark.parametrize(
    ("losses", "message"),
    [
        (["CE", {"dkd": {"alpa": 1.0}}], "the loss 'dkd' has no option 'alpa'. Did you mean 'alpha'?"),
        (["CE", {"KL": {"axis": 1}}], "the loss 'KL' has no option 'axis'. It has no options"),
        ([{"CE": {"a": 1}}, "KL"], "the first of loss_types, CE, names the loop's own loss, which has no options"),
        (["CE", 3], "loss_types: expected the name of a loss, or a name and its options, got 3"),
    ],
)
def test_faults_in_python(losses: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        KnowledgeDistillationLoss(1.0, losses, [0.5, 0.5])
    assert str(caught.value) == message


def test_a_registered_loss_has_the_options_of_its_function() -> None:
    def powered(student: Tensor, teacher: Tensor, *, temperature: float, power: float = 2.0) -> Tensor:
        return ((student - teacher) / temperature).abs().pow(power).mean()

    register_loss("powered", powered)
    try:
        conf = {"temperature": 2.0, "loss_types": ["CE", {"powered": {"power": 3.0}}], "loss_weights": [0.5, 0.5]}
        read = DistillationConf({"distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": conf}}}})
        student, teacher = models()
        x, y = batches()[0]
        with Distillation(read, student_model=student, teacher_model=teacher) as distiller:
            total_of(distiller, student, x, y)
            expected = powered(student(x), teacher(x), temperature=2.0, power=3.0).detach()
            assert distiller.losses["powered"] == pytest.approx(float(expected), rel=1e-6)
        with pytest.raises(UsageError) as caught:
            KnowledgeDistillationLoss(1.0, ["CE", {"powered": {"pwer": 3.0}}])
        assert str(caught.value) == "the loss 'powered' has no option 'pwer'. Did you mean 'power'?"
    finally:
        for table in (REGISTERED_LOSSES, FEATURE_LOSSES, TEACHER_LOSSES, STUDENT_LOSSES):
            table._entries.pop("powered")
            table._spelling.pop("powered")
