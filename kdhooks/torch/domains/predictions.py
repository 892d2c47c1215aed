"""The target's predictions of an epoch, kept for validators without a further forward."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Predictions:
    """The logits of the last target rows of an epoch, on their device.

    Args:
        most: rows that are kept; 0 keeps none.
    """

    def __init__(self, most: int) -> None:
        self._most, self._rows = most, 0
        self._batches: deque[Tensor] = deque()
        self._ended = False

    def take(self, logits: Tensor) -> None:
        """Keep a batch, [M, C] or [M, C, ...], and let go of the oldest ones."""
        if not self._most:
            return
        if self._ended:
            self._batches.clear()
            self._rows, self._ended = 0, False
        rows = logits.detach()
        if rows.ndim > 2:
            rows = rows.movedim(1, -1).flatten(0, -2)
        rows = rows[:: max(1, -(-len(rows) // self._most))].clone()
        self._batches.append(rows)
        self._rows += len(rows)
        while self._rows - len(self._batches[0]) >= self._most:
            self._rows -= len(self._batches.popleft())

    def read(self) -> Any:
        """All rows [N, C] as an array of the host; None where there are none."""
        if not self._batches:
            return None
        return torch.cat(list(self._batches)).float().cpu().numpy()

    def end(self) -> None:
        """The epoch is over: they can be read until the next batch comes."""
        self._ended = True

    def state(self) -> dict[str, Any]:
        """What is kept."""
        return {"batches": list(self._batches), "ended": self._ended}

    def restore(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Keep what was kept."""
        self._batches = deque(batch.to(device) for batch in state["batches"])
        self._rows, self._ended = sum(map(len, self._batches)), bool(state["ended"])
