"""Models whose weights may go over into each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import Distillation


class Net(nn.Module):
    """Two convolutions with BatchNorm and a head."""

    def __init__(self, classes: int = 3, *, channels: int = 1) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.25))
        self.head = nn.Linear(4, classes)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.body(self.stem(x)).mean((2, 3)))
        return output


def net(seed: int, classes: int = 3, *, channels: int = 1) -> Net:
    """Weights and statistics of this seed; the generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Net(classes, channels=channels)
        model(torch.randn(16, channels, 8, 8))
    return model


def batches(count: int = 5) -> list[tuple[Tensor, Tensor]]:
    draws = torch.Generator().manual_seed(7)
    return [(torch.randn(6, 1, 8, 8, generator=draws), torch.randint(3, (6,), generator=draws)) for _ in range(count)]


def run(
    distiller: Distillation, optimizer: Any, steps: range, look: Callable[[int], object] = lambda step: None
) -> None:
    """A user's loop over steps, five an epoch, on a run that has begun."""
    student, data = distiller.student_model, batches()
    for step in steps:
        student.train()
        x, y = data[step % 5]
        output = student(x)
        loss = distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 4:
            distiller.on_epoch_end()
        look(step)


def same(one: Any, other: Any) -> bool:
    """Whether two state_dicts are equal bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
