"""Loss components on the device: nothing here waits for it but the methods that read.

A step costs one operation, a `stack` into the next row of a small buffer. Sums and the search for
what is not finite are done for a whole buffer at once, on the device, when it is full or read.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Names = tuple[str, ...]

ROWS = 64
"""Steps a buffer holds."""


class _Buffer:
    """The components of up to `ROWS` steps that had the same names."""

    def __init__(self, values: Sequence[Tensor]) -> None:
        dtype = torch.float32
        for value in values:
            dtype = torch.promote_types(dtype, value.dtype)
        self.dtype, self.device = dtype, values[0].device
        self.rows = torch.empty(ROWS, len(values), dtype=dtype, device=self.device)
        self.views = self.rows.unbind(0)
        self.filled = 0
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        self.sums = torch.zeros(len(values), dtype=wide, device=self.device)
        self.count = 0
        # by row, counted since the last look: the row's step is looked up only when somebody looks
        self.steps: list[int] = []
        self.first_bad = torch.full((len(values),), math.inf, dtype=torch.float32, device=self.device)

    def write(self, step: int, values: Sequence[Tensor]) -> None:
        """Take a step's components."""
        for value in values:
            if value.dtype is not self.dtype or value.device != self.device:
                values = [value.to(self.device, self.dtype) for value in values]
                break
        torch.stack([*values], out=self.views[self.filled])
        self.steps.append(step)
        self.filled += 1
        if self.filled == ROWS:
            self.settle()

    def settle(self) -> None:
        """Add the rows to the sums and look for bad ones, on the device."""
        if not self.filled:
            return
        rows = self.rows[: self.filled]
        self.sums += rows.sum(0, dtype=self.sums.dtype)
        first = len(self.steps) - self.filled
        number = torch.arange(first, len(self.steps), dtype=torch.float32, device=self.device)
        bad = torch.where(rows.isfinite(), math.inf, number.unsqueeze(1)).amin(0)
        self.first_bad = torch.minimum(self.first_bad, bad)
        self.count += self.filled
        self.filled = 0


class Monitor:
    """Keeps the last step's components, their sums over the epoch, and the first bad step.

    Components that come and go with a schedule are kept apart by the tuple of names of a step.
    """

    def __init__(self) -> None:
        self._buffers: dict[Names, _Buffer] = {}
        self._last: tuple[Names, Tensor] | None = None
        self._bad: tuple[int, str] | None = None
        self._saved: list[tuple[Names, list[float], int]] = []

    @torch.no_grad()
    def record(self, step: int, names: Names, values: Sequence[Tensor]) -> None:
        """Take the components of a step, scalars in the order of `names`."""
        buffer = self._buffers.get(names)
        if buffer is None:
            buffer = self._buffers[names] = _Buffer(values)
        self._last = names, buffer.views[buffer.filled]
        buffer.write(step, values)

    def last(self) -> dict[str, float]:
        """The components of the last step."""
        return {} if self._last is None else dict(zip(self._last[0], self._last[1].tolist(), strict=True))

    def tensors(self) -> dict[str, Tensor]:
        """The same as tensors of their own on the device, without waiting for it."""
        return {} if self._last is None else dict(zip(self._last[0], self._last[1].clone().unbind(), strict=True))

    @torch.no_grad()
    def end_epoch(self) -> dict[str, float]:
        """The mean of each component over the steps in which it was there; starts a new epoch."""
        self.first_bad()
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, sums, count in self._sums():
            for name, value in zip(names, sums, strict=True):
                totals[name] = totals.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + count
        self._saved = []
        for buffer in self._buffers.values():
            buffer.count = 0
            buffer.sums.zero_()
        return {name: total / counts[name] for name, total in totals.items()}

    @torch.no_grad()
    def first_bad(self) -> tuple[int, str] | None:
        """Step and name of the first component that was NaN or infinite.

        Within a step the total comes last, so a term is named rather than the sum it spoiled.
        """
        found = []
        for names, buffer in self._buffers.items():
            buffer.settle()
            rows = buffer.first_bad.tolist() if buffer.steps else []
            found += [(buffer.steps[int(row)], name) for name, row in zip(names, rows, strict=False) if row != math.inf]
            buffer.steps = []
            buffer.first_bad.fill_(math.inf)
        if self._bad is None:
            self._bad = min(found, key=lambda pair: (pair[0], pair[1] == "total"), default=None)
        return self._bad

    def state_dict(self) -> dict[str, Any]:
        """The sums of the epoch that is under way."""
        for buffer in self._buffers.values():
            buffer.settle()
        return {"sums": [[list(names), sums, count] for names, sums, count in self._sums()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the sums back; what was bad before is forgotten."""
        self.__init__()  # type: ignore[misc]  # starts from nothing
        self._saved = [(tuple(names), list(sums), count) for names, sums, count in state["sums"]]

    def _sums(self) -> list[tuple[Names, list[float], int]]:
        """Names, sums and number of steps of this epoch, those of before a resume among them."""
        live = [(names, buffer.sums.tolist(), buffer.count) for names, buffer in self._buffers.items() if buffer.count]
        return [*self._saved, *live]
