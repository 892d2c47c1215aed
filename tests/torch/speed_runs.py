"""A small student of images, and runs of `fit()` in a precision and memory format, for the tests of both."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks import Distillation
from kdhooks.speed import Choice
from kdhooks.torch import student_choice
from tests.torch.training_runs import NOTHING, SGD, settings

Batches = list[tuple[Tensor, Tensor]]
FIT = {"precision": "auto", "channels_last": "auto"}
FUSED = {"SGD": SGD["SGD"] | {"fused": True}}
"""The optimizer that `SGD` becomes under auto."""


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


def shuffled(**options: Any) -> DataLoader[Any]:
    parts = [torch.cat(columns) for columns in zip(*images(), strict=True)]
    return DataLoader(Noisy(*parts), batch_size=8, shuffle=True, generator=torch.Generator().manual_seed(9), **options)


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
