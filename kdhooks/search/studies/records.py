"""A candidate as plain JSON, which every storage, browser and database reads, and back.

JSON has no numbers that are not finite; they are texts in a record ("nan", "inf", "-inf").
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdhooks.search.candidates import Candidate, plain


def record_of(candidate: Candidate) -> dict[str, Any]:
    """What is stored of a candidate; its number and architecture stand in its claim."""
    record: dict[str, Any] = plain(candidate.as_dict())
    del record["number"], record["arch"]
    return record


def candidate_of(number: int, arch: Mapping[str, Any], record: Mapping[str, Any]) -> Candidate:
    """The candidate of a record."""
    return Candidate.from_dict({**record, "number": number, "arch": dict(arch)})


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
