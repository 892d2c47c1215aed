"""Which candidates nothing beats, and which of them is the best.

Rules, and not a word of how they are shown. A candidate counts if it is complete and has a finite number for every
metric of the search; infeasible, failed, pruned and running ones never do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdhooks.config.search_settings import SearchSettings
from kdhooks.search.candidates import Candidate

Scores = tuple[float, ...]
"""A candidate's metrics in the order of the search, with signs such that more is better."""

STATES = ("complete", "infeasible", "pruned", "failed", "running")
"""From the one that says most to the one that says least."""


def scores_of(candidate: Candidate, settings: SearchSettings) -> Scores | None:
    """What a candidate is compared by, or None where it doesn't count.

    >>> settings = SearchSettings(metrics=("accuracy", "latency"), higher_is_better=(True, False))
    >>> scores_of(Candidate(0, {}, "complete", {"accuracy": 0.9, "latency": 0.002}), settings)
    (0.9, -0.002)
    >>> scores_of(Candidate(1, {}, "complete", {"accuracy": float("nan"), "latency": 0.002}), settings)
    """
    if candidate.state != "complete":
        return None
    values = [candidate.metrics.get(name, math.nan) for name in settings.metrics]
    if not all(math.isfinite(value) for value in values):
        return None
    signs = (1.0 if higher else -1.0 for higher in settings.higher_is_better)
    return tuple(sign * value for sign, value in zip(signs, values, strict=True))


def undominated(points: Sequence[Scores]) -> set[Scores]:
    """The points that no other one equals or beats in every metric and beats in one; more is better.

    >>> sorted(undominated([(1.0, 3.0), (2.0, 2.0), (1.0, 2.0)]))
    [(1.0, 3.0), (2.0, 2.0)]
    """
    front: list[Scores] = []
    # From the best of the first metric on, one that dominates always comes before what it dominates.
    for point in sorted(set(points), reverse=True):
        if not any(all(a >= b for a, b in zip(other, point, strict=True)) for other in front):
            front.append(point)
    return set(front)


def pareto_set(candidates: Sequence[Candidate], settings: SearchSettings) -> tuple[Candidate, ...]:
    """The candidates that no other one dominates, in the order given; all of those that are equal in every metric.

    With one metric these are the best and its equals.
    """
    scored = [(candidate, scores) for candidate in candidates if (scores := scores_of(candidate, settings)) is not None]
    front = undominated([scores for _, scores in scored])
    return tuple(candidate for candidate, scores in scored if scores in front)


def best_of(candidates: Sequence[Candidate], settings: SearchSettings) -> Candidate | None:
    """The best candidate by the rule ``best_by``, always one of the Pareto set; None where none counts.

    One metric: its best value. Several and ``ideal``: of the Pareto set the one nearest to the ideal point, which has
    the best value of each metric, by the Euclidean distance with each metric scaled to its range over the Pareto set.
    The name of a metric: its best value. Of equals the one that is better in the first metric (with a metric's name:
    in the others, in their order), then the one with the lower number.
    """
    front = {candidate.number: candidate for candidate in pareto_set(candidates, settings)}
    if not front:
        return None
    scored = [(number, scores_of(candidate, settings) or ()) for number, candidate in front.items()]
    if settings.best_by in settings.metrics:
        place = settings.metrics.index(settings.best_by)
        return front[max(scored, key=lambda item: (item[1][place], item[1], -item[0]))[0]]
    away = _distances_to_ideal([scores for _, scores in scored])
    return front[max(scored, key=lambda item: (-away[item[1]], item[1], -item[0]))[0]]


def _distances_to_ideal(points: Sequence[Scores]) -> dict[Scores, float]:
    """How far each point is from the best of every metric, rounded so that equals are equal in spite of arithmetic."""
    best = [max(column) for column in zip(*points, strict=True)]
    ranges = [high - min(column) for high, column in zip(best, zip(*points, strict=True), strict=True)]
    return {
        point: round(
            math.hypot(*((top - at) / width for top, at, width in zip(best, point, ranges, strict=True) if width)), 9
        )
        for point in points
    }


def ranked(candidates: Sequence[Candidate], settings: SearchSettings) -> list[Candidate]:
    """All candidates as a table has them: the best, the rest of the Pareto set, other complete ones, then the others.

    Complete ones are ordered by the first metric, and the others by state and number.
    """
    best = best_of(candidates, settings)
    front = {candidate.number for candidate in pareto_set(candidates, settings)}

    def place(candidate: Candidate) -> tuple[float, ...]:
        scores = scores_of(candidate, settings)
        state = STATES.index(candidate.state)
        if scores is None:  # a complete one without a finite number of every metric stands behind those that have them
            return (3 + state, 0.0, candidate.number)
        group = 0 if best is not None and candidate.number == best.number else 1 if candidate.number in front else 2
        return (group, -scores[0], candidate.number)

    return sorted(candidates, key=place)
