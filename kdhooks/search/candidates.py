"""What is known of a candidate: one record for the study, the table, the JSON and the page."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["complete", "infeasible", "failed", "pruned", "running"]
"""`infeasible` broke a limit, `failed` raised or returned no usable number; both have a reason."""


@dataclass(frozen=True)
class Candidate:
    """One point of the search space and what came of it.

    Attributes:
        number: its place in the order of proposals, counted from 0.
        arch: the parameters that the model builder got.
        state: what came of it.
        metrics: those that are searched for, and what else was measured, by name.
        spread: quartiles of what was measured repeatedly, by name.
        reason: in words, where it is infeasible, failed or pruned.
        seconds: from the builder's call to the last metric.
        weights: the file of the trained student, where it was kept.
        worker: host and process that trained it.
        stages: steps and last losses of each stage of its training.
    """

    number: int
    arch: Mapping[str, Any]
    state: State = "running"
    metrics: Mapping[str, float] = field(default_factory=dict)
    spread: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    reason: str = ""
    seconds: float = 0.0
    weights: str | None = None
    worker: str = ""
    stages: tuple[Mapping[str, Any], ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `as_json` has what is not finite as texts."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Candidate:
        """What `as_dict` returned, also after `plain` and JSON: lists for tuples, texts for NaN and infinities."""
        values: dict[str, Any] = {
            "metrics": {name: float(value) for name, value in content["metrics"].items()},
            "spread": {name: (float(low), float(high)) for name, (low, high) in content["spread"].items()},
            "stages": tuple(content["stages"]),
        }
        return cls(**{**content, **values})


def plain(value: Any) -> Any:
    """A value as every JSON reader takes it: scalars of NumPy and frameworks as numbers, NaN and infinities as texts.

    >>> plain({"loss": float("nan"), "sizes": (1, 2)})
    {'loss': 'nan', 'sizes': [1, 2]}
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, str)):
        return value
    try:
        number = value.item() if hasattr(value, "item") else float(value)
    except (RuntimeError, TypeError, ValueError):
        return str(value)
    if not isinstance(number, float):
        return plain(number)
    return number if math.isfinite(number) else str(number)
