"""What search algorithms are told: finished and running candidates as codes, scores and violations.

An infeasible candidate has broken a limit by some share, a failed one has violation 1. Both may lack scores;
they get the worst that was seen, so that their neighbourhood is left.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdhooks.config.search_settings import SearchSettings
from kdhooks.search.candidates import Candidate
from kdhooks.search.proposals.space import Code, Space

_SMALLEST = 1e-3  # of a violation, where the record doesn't say how large it was


@dataclass(frozen=True)
class Told:
    """One candidate as an algorithm sees it.

    Attributes:
        number: in the order of proposals.
        code: of its architecture.
        values: one for each metric, all finite; None while it runs.
        violation: over 0 for an infeasible or failed one, at most 0 for all others.
    """

    number: int
    code: Code
    values: tuple[float, ...] | None
    violation: float = 0.0


def told(space: Space, settings: SearchSettings, candidates: Sequence[Candidate]) -> list[Told]:
    """The history for an algorithm, in the order of numbers."""
    worst = _worst(settings, candidates)
    return [
        Told(
            candidate.number,
            space.encode(candidate.arch),
            None if candidate.state == "running" else _values(settings, candidate, worst),
            _violation(settings, candidate),
        )
        for candidate in sorted(candidates, key=lambda candidate: candidate.number)
    ]


def _worst(settings: SearchSettings, candidates: Sequence[Candidate]) -> list[float]:
    """For each metric the worst finite value that was seen."""
    worst = []
    for metric, higher in zip(settings.metrics, settings.higher_is_better, strict=True):
        seen = [candidate.metrics[metric] for candidate in candidates if metric in candidate.metrics]
        finite = [value for value in seen if math.isfinite(value)]
        worst.append((min(finite) if higher else max(finite)) if finite else 0.0)
    return worst


def _values(settings: SearchSettings, candidate: Candidate, worst: Sequence[float]) -> tuple[float, ...]:
    found = []
    for metric, poor in zip(settings.metrics, worst, strict=True):
        value = candidate.metrics.get(metric, math.nan)
        found.append(value if math.isfinite(value) else poor)
    return tuple(found)


def _violation(settings: SearchSettings, candidate: Candidate) -> float:
    if candidate.state == "failed":
        return 1.0
    largest = _largest(settings, candidate.metrics)
    if candidate.state == "infeasible":
        return max(_SMALLEST, largest)
    return min(0.0, largest)


def _largest(settings: SearchSettings, metrics: Mapping[str, float]) -> float:
    """The largest share by which a limit is broken, between -1 and 1; -1 where there is none."""
    known = [limit.violation(metrics[limit.metric]) for limit in settings.limits if limit.metric in metrics]
    return max((max(-1.0, min(1.0, share)) for share in known if not math.isnan(share)), default=-1.0)
