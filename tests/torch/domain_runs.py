"""Small students between two domains, and the loops that train them."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import Distillation

ROWS, MORE = 8, 6
DANN = {"DANN": {"layer": "body.2", "hidden_size": 12}}


class Student(nn.Module):
    """A body with BatchNorm and a head."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Dropout(dropout))
        self.head = nn.Linear(7, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        output: Tensor = self.head(self.body(x))
        return output


def student(seed: int = 1, dropout: float = 0.0) -> Student:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Student(dropout)


def conf(criterion: Any = None, **options: Any) -> dict[str, Any]:
    section = {"criterion": DANN if criterion is None else criterion, "reversal": {"steps": 8}, **options}
    return {"domain_adaptation": section}


def data(count: int = 5, rows: int = ROWS, more: int = MORE) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Batches of a source, its labels, and a target that is moved and stretched."""
    made = torch.Generator().manual_seed(3)
    found = []
    for _ in range(count):
        x, t = torch.randn(rows, 5, generator=made), torch.randn(more, 5, generator=made)
        found.append((x, x[:, :3].argmax(1), 1.5 * t + 0.5))
    return found


def one(distiller: Distillation, model: Any, batch: tuple[Tensor, Tensor, Tensor], **given: Any) -> Tensor:
    """The total loss of one batch."""
    x, y, t = batch
    output = model(x)
    total: Tensor = distiller.on_after_compute_loss(
        x, output, F.cross_entropy(output, y), **{"target": y, "target_input": t, **given}
    )
    return total


def train(distiller: Distillation, model: Any, optimizer: Any, batches: Any, **given: Any) -> None:
    for batch in batches:
        total = one(distiller, model, batch, **given)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()


def equal(mine: nn.Module, other: nn.Module) -> bool:
    pairs = zip(mine.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
