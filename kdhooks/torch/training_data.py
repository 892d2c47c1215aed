"""The built-in loop's batches, with the generators of a user's ``DataLoader``; see `kdhooks.loop.training_data`."""

from __future__ import annotations

from typing import Any

import torch

from kdhooks.loop import training_data
from kdhooks.loop.training_data import jumps, parts_of


class TrainingData(training_data.TrainingData):
    """A loader, with all that an epoch of it depends on: an `EpochLoader`, a ``DataLoader``, or any iterable."""

    expected = "a DataLoader or another iterable"

    def _own_generators(self) -> list[tuple[str, torch.Generator]]:
        return own_generators(self.loader)


def own_generators(loader: Any) -> list[tuple[str, torch.Generator]]:
    """The generators of a user's loader and samplers, each under its first name; our own loaders have none."""
    if jumps(loader):
        return []
    found: dict[int, tuple[str, torch.Generator]] = {}
    for name, part in parts_of(loader).items():
        generator = getattr(part, "generator", None)
        if isinstance(generator, torch.Generator):
            found.setdefault(id(generator), (name, generator))
    return list(found.values())
