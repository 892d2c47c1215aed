"""A student in two parts, and what two domains' batches give."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.torch.adaptation import ADAPTERS, Adapter, DomainBatch

SMALL: dict[str, dict[str, Any]] = {
    "dann": {"hidden_size": 6},
    "cdan": {"hidden_size": 6, "randomized": True, "random_size": 7},
    "adda": {"hidden_size": 6},
    "mdd": {"hidden_size": 6},
}


class Parts(nn.Module):
    """An encoder of [N, 5] to [N, 4] and a head of three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(5, 4), nn.Tanh())
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.encoder(x))
        return logits


def adapter_of(name: str, student: Parts | None = None, **options: Any) -> Adapter:
    made = ADAPTERS[name](**{**SMALL.get(name, {}), **options})
    if student is not None:
        made.attach(student.encoder, student.head)
    return made


def batch_of(name: str, student: Parts, x: Tensor) -> DomainBatch:
    """What the student gives for an adapter of this name."""
    features = student.encoder(x)
    taken = () if ADAPTERS[name].layers[1] == 0 else (features,)
    return DomainBatch(taken, student.head(features), torch.arange(len(x)) % 3, features, (x,))


def domains_of(name: str, student: Parts, sources: int = 6, targets: int = 4) -> tuple[DomainBatch, DomainBatch]:
    source = torch.randn(sources, 5, generator=torch.Generator().manual_seed(1))
    target = torch.randn(targets, 5, generator=torch.Generator().manual_seed(2)) + 1
    return batch_of(name, student, source), batch_of(name, student, target)
