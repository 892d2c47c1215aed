"""The components of the loss in a `Trainer`'s logs: sums on the device, read when the `Trainer` logs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

Names = tuple[str, ...]


class ComponentLogs:
    """Adds up components between two logs.

    Args:
        accelerator: of the `Trainer`, for the mean over processes.
        prefix: stands before each component's name.
        step: the `Trainer`'s ``global_step`` at the beginning.
    """

    def __init__(self, accelerator: Any, prefix: str, step: int) -> None:
        self._accelerator, self._prefix, self._step = accelerator, prefix, step
        self._sums: dict[Names, Tensor] = {}

    def add(self, components: Mapping[str, Tensor], parts: int) -> None:
        """The components of a micro-batch, of which the `Trainer` counts one part of so many."""
        names = tuple(name for name in components if name != "total")  # which the Trainer logs as its loss
        if not names:
            return
        values = torch.stack([components[name] for name in names])
        sums = self._sums.get(names)
        if sums is None:
            sums = self._sums[names] = torch.zeros_like(values)
        sums.add_(values, alpha=1 / parts)

    def read(self, step: int) -> dict[str, float]:
        """The mean of each over the optimizer's steps since the last log and over all processes; starts anew."""
        steps, self._step = max(1, step - self._step), step
        found: dict[str, float] = {}
        for names, sums in self._sums.items():
            if self._accelerator.num_processes > 1:
                sums = self._accelerator.gather(sums).view(-1, len(names)).mean(0)
            for name, value in zip(names, sums.tolist(), strict=True):
                key = self._prefix + name
                found[key] = found.get(key, 0.0) + value / steps
        self._sums = {}
        return found
