"""Optimizers of the built-in loop that are fused where the speed is left to us."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdhooks.speed import Choice
from kdhooks.torch.checkpoint import CheckpointFile
from kdhooks.torch.fused_optimizers import fusing
from tests.torch.speed_runs import FIT, Maps, run_of, take
from tests.torch.training_runs import SGD, close, equal

RATE = {"learning_rate": 0.01}


def fused(distiller: Any) -> Any:
    (group,) = distiller.optimizer.param_groups
    return group.get("fused")


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "Adagrad"])
def test_auto_fuses_what_torch_can_and_the_update_is_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(monkeypatch, Choice("fp32", channels_last=True))
    left = run_of(tmp_path, optimizer={name: RATE}, **FIT)
    plain = run_of(tmp_path, optimizer={name: RATE}, precision="fp32", channels_last=True)
    asked = run_of(tmp_path, optimizer={name: RATE | {"fused": True}}, precision="fp32", channels_last=True)
    students = [distiller.fit() for distiller in (left, plain, asked)]
    assert (fused(left), fused(plain), fused(asked)) == (True, None, True)
    assert equal(students[0], students[2])
    close(students[0], students[1])


@pytest.mark.parametrize(
    ("optimizer", "train", "expected"),
    [
        ({"SGD": RATE | {"fused": False}}, {}, False),
        ({"SGD": RATE | {"foreach": True}}, {}, None),
        ({"Adam": RATE | {"capturable": False}}, {}, None),
        ({"RMSprop": RATE}, {}, None),
        (SGD, {"precision": "bf16"}, None),
        (SGD, {"precision": None}, None),
        (SGD, {"ipex": "auto"}, None),
    ],
)
def test_what_the_user_says_wins(
    optimizer: Any, train: Any, expected: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(monkeypatch, Choice("fp32"))
    distiller = run_of(tmp_path, end_epoch=1, optimizer=optimizer, **FIT | train)
    distiller.fit()
    assert fused(distiller) == expected


def test_weights_that_are_not_dense_or_have_sparse_gradients_are_not_fused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = nn.Parameter(torch.zeros(4, 4).t())
    assert fusing(torch.optim.SGD, {}, [dense])
    assert not fusing(torch.optim.SGD, {}, [dense, nn.Parameter(torch.zeros(4, 4)[:, :2])])
    assert not fusing(torch.optim.SGD, {}, [nn.Parameter(torch.zeros(2, dtype=torch.complex64))])
    take(monkeypatch, Choice("fp32"))
    student = nn.Sequential(nn.Embedding(9, 6, sparse=True), nn.Flatten(), nn.Linear(12, 4))
    rows = [(torch.randint(9, (8, 2)), torch.randint(4, (8,))) for _ in range(2)]
    distiller = run_of(tmp_path, rows, student=student, optimizer={"SGD": RATE}, end_epoch=1, **FIT)
    distiller.fit()
    assert fused(distiller) is None


@pytest.mark.parametrize(("first", "then"), [(True, "fp32"), (False, "auto")])
def test_a_resumed_run_goes_on_as_it_began(
    first: bool, then: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take(monkeypatch, Choice("fp32"))
    began = {"precision": "auto" if first else "fp32"}
    whole = run_of(tmp_path / "whole", end_epoch=3, **began)
    whole.fit()
    run_of(tmp_path / "parts", end_epoch=1, **began).fit()
    saved = CheckpointFile(tmp_path / "parts" / "checkpoint.pt").read()["optimizer"]["state"]
    assert saved["param_groups"][0]["fused"] == (True if first else None)
    second = run_of(tmp_path / "parts", end_epoch=3, precision=then)
    second.conf["tuning.workspace.resume"] = True
    assert equal(second.fit(), whole.student_model)
    assert fused(second) == (True if first else None)


def test_matchers_train_in_it_as_they_do_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, Choice("fp32", channels_last=True))
    pairs = {"layer_mappings": [["conv"], ["down"]], "loss_types": ["MSE"], "loss_weights": [1.0, 0.5]}
    criterion = {"IntermediateLayersKnowledgeDistillationLoss": pairs | {"add_origin_loss": True}}
    students = []
    for options in ({}, {"fused": False}):
        distiller = run_of(tmp_path, student=Maps(), optimizer={"AdamW": RATE | options}, **FIT)
        distiller.conf["distillation.train.criterion"] = criterion
        students.append(distiller.fit())
        assert fused(distiller) is (not options)
    close(*students)
