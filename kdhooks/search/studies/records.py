"""A candidate as plain JSON, which every storage, browser and database reads, and back.

JSON has no numbers that are not finite; they are texts in a record ("nan", "inf", "-inf").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from kdhooks.search.candidates import Candidate, State


def record_of(candidate: Candidate) -> dict[str, Any]:
    """What is stored of a candidate; its number and architecture stand in its claim."""
    plain = candidate.as_dict()
    del plain["number"], plain["arch"]
    written: dict[str, Any] = _written(plain)
    return written


def candidate_of(number: int, arch: Mapping[str, Any], record: Mapping[str, Any]) -> Candidate:
    """The candidate of a record."""
    return Candidate(
        number=number,
        arch=dict(arch),
        state=cast(State, record["state"]),
        metrics={name: float(value) for name, value in record["metrics"].items()},
        spread={name: (float(low), float(high)) for name, (low, high) in record["spread"].items()},
        reason=record["reason"],
        seconds=float(record["seconds"]),
        weights=record["weights"],
        worker=record["worker"],
        stages=tuple(record["stages"]),
    )


def usable(candidate: Candidate, metrics: Sequence[str], scores: Mapping[int, float]) -> Candidate:
    """The candidate as a search can use it.

    One that is complete without a finite number for each metric is `failed`; a pruned one has its last score as its
    metric.
    """
    if candidate.state == "pruned" and scores:
        return replace(candidate, metrics={metrics[0]: scores[max(scores)], **candidate.metrics})
    if candidate.state == "complete":
        for metric in metrics:
            if metric not in candidate.metrics:
                return replace(candidate, state="failed", reason=f"the metric {metric} is missing")
            if not math.isfinite(candidate.metrics[metric]):
                return replace(candidate, state="failed", reason=f"the metric {metric} is {candidate.metrics[metric]}")
    return candidate


def _written(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _written(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written(inner) for inner in value]
    if isinstance(value, (bool, str)) or value is None:
        return value
    if isinstance(value, int):
        return int(value)
    try:
        number = float(value)  # also those of NumPy
    except (TypeError, ValueError):
        return str(value)
    return number if math.isfinite(number) else str(number)
