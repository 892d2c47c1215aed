"""What is known of a stage while it is trained and afterwards."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EpochEnd:
    """What is known at the end of an epoch of a stage.

    Attributes:
        kind: ``flash`` or ``regular``.
        stage: its number in its part, from 0.
        block: the layer that it trains; empty for the whole student.
        epoch: its number in the part, from 0.
        steps: batches of the part so far.
        losses: means over the epoch, by name.
        metrics: what `eval_func` returned, by name; empty where the epoch is not evaluated.
        score: of these; None where the epoch is not evaluated.
    """

    kind: str
    stage: int
    block: str
    epoch: int
    steps: int
    losses: Mapping[str, float]
    metrics: Mapping[str, float]
    score: float | None


class Watch:
    """Times a stage, and what of it went before the first step."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._ready: float | None = None

    def ready(self, _: Any) -> None:
        """An epoch begins."""
        self._ready = time.perf_counter() if self._ready is None else self._ready

    def seconds(self) -> dict[str, float]:
        """What went before the first step, and all of it."""
        now = time.perf_counter()
        return {"setup": (now if self._ready is None else self._ready) - self._began, "seconds": now - self._began}


def lengths(distiller: Any) -> dict[str, int]:
    """The batches and epochs that a stage took."""
    return {"steps": sum(one["steps"] for one in distiller.history), "epochs": len(distiller.history)}


def described(record: Mapping[str, Any], stages: int) -> str:
    """A stage in one line.

    >>> described({"kind": "flash", "stage": 0, "block": "layer1", "steps": 5, "losses": {"total": 0.5}, "shared": True,
    ...            "seconds": 2.0}, 3)
    "flash distillation, stage 1 of 3 of 'layer1' (begun with a shared block): 5 steps in 2.0 s, total 0.5000"
    """
    block = f" of {record['block']!r}" if record["block"] else ""
    shared = " (begun with a shared block)" if record["shared"] else ""
    losses = ", ".join(f"{name} {value:.4f}" for name, value in record["losses"].items())
    return (
        f"{record['kind']} distillation, stage {record['stage'] + 1} of {stages}{block}{shared}: {record['steps']} "
        f"steps in {record['seconds']:.1f} s, {losses}"
    )
