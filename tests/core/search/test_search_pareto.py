"""The Pareto set and the best candidate: against a plain definition, laws, ties, and candidates that never count."""

from __future__ import annotations

import itertools
import math
import random
from dataclasses import replace

import pytest

from kdhooks.config.search_settings import SearchSettings
from kdhooks.search.candidates import Candidate, State
from kdhooks.search.results.pareto import best_of, pareto_set, ranked
from tests.core.search.made_up import TWO, complete, searched


def settings_of(*directions: bool, best_by: str = "ideal") -> SearchSettings:
    names = tuple(f"m{place}" for place in range(len(directions)))
    return SearchSettings(metrics=names, higher_is_better=directions, best_by=best_by)


def numbers(candidates: tuple[Candidate, ...] | list[Candidate]) -> list[int]:
    return [candidate.number for candidate in candidates]


def by_definition(candidates: list[Candidate], settings: SearchSettings) -> list[int]:
    """The Pareto set as a textbook says it, without a thought of time."""

    def value(candidate: Candidate, name: str, higher: bool) -> float:
        return candidate.metrics[name] if higher else -candidate.metrics[name]

    def beats(one: Candidate, other: Candidate) -> bool:
        pairs = [
            (value(one, *item), value(other, *item))
            for item in zip(settings.metrics, settings.higher_is_better, strict=True)
        ]
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

    return [one.number for one in candidates if not any(beats(other, one) for other in candidates)]


@pytest.mark.parametrize(
    "directions", [d for count in (1, 2, 3, 4) for d in itertools.product((True, False), repeat=count)]
)
def test_the_pareto_set_is_that_of_the_definition(directions: tuple[bool, ...]) -> None:
    settings = settings_of(*directions)
    for seed in range(8):
        draw = random.Random(seed)
        # Few different values, so that there are many ties.
        candidates = [
            complete(at, *(float(draw.randint(0, 5)) for _ in directions), names=settings.metrics) for at in range(40)
        ]
        assert numbers(pareto_set(candidates, settings)) == by_definition(candidates, settings)
        best = best_of(candidates, settings)
        assert best is not None and best.number in by_definition(candidates, settings)


def test_equals_are_all_in_the_set_and_the_lower_number_is_the_best() -> None:
    candidates = [complete(2, 0.9, 0.1), complete(0, 0.9, 0.1), complete(1, 0.9, 0.2)]
    assert sorted(numbers(pareto_set(candidates, TWO))) == [0, 2]
    best = best_of(candidates, TWO)
    assert best is not None and best.number == 0


@pytest.mark.parametrize("state", ["infeasible", "failed", "pruned", "running"])
def test_what_is_not_complete_never_wins(state: State) -> None:
    great = replace(complete(0, 1.0, 0.0), state=state)
    assert best_of([great], TWO) is None
    assert numbers(pareto_set([great, complete(1, 0.1, 9.0)], TWO)) == [1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_never_wins(value: float) -> None:
    candidates = [complete(0, value, 0.1), complete(1, 0.5, value), complete(2, 0.1, 9.0)]
    assert numbers(pareto_set(candidates, TWO)) == [2]
    assert ranked(candidates, TWO)[0].number == 2


def test_a_candidate_without_a_metric_never_wins() -> None:
    assert best_of([Candidate(0, {}, "complete", {"accuracy": 0.9})], TWO) is None


@pytest.mark.parametrize(("higher", "best"), [(True, 1), (False, 0)])
def test_with_one_metric_its_best_value_wins(higher: bool, best: int) -> None:
    settings = settings_of(higher)
    found = best_of([complete(at, value, names=("m0",)) for at, value in enumerate((1.0, 3.0, 2.0))], settings)
    assert found is not None and found.number == best


def test_the_nearest_to_the_ideal_point_by_hand() -> None:
    # Ranges over the Pareto set (0, 1, 2): accuracy 0.2, latency 8. Squared distances: 1, 0.25 + 0.0625, 1.
    # The dominated candidate 3 would stretch the range of latency to 99, and must not.
    candidates = [complete(0, 0.7, 1.0), complete(1, 0.8, 3.0), complete(2, 0.9, 9.0), complete(3, 0.6, 99.0)]
    best = best_of(candidates, TWO)
    assert best is not None and best.number == 1


def test_of_equally_near_ones_the_first_metric_decides() -> None:
    candidates = [complete(0, 0.1, 1.0), complete(1, 0.3, 3.0)]  # two corners: both have the distance 1
    best = best_of(candidates, TWO)
    assert best is not None and best.number == 1


def test_units_do_not_matter() -> None:
    result = searched()
    scaled = [
        replace(row, metrics={name: value * 1000 for name, value in row.metrics.items()}) for row in result.candidates
    ]
    assert result.best is not None
    best = best_of(scaled, result.settings)
    assert best is not None and best.number == result.best.number
    assert numbers(pareto_set(scaled, result.settings)) == numbers(result.pareto)


def test_the_order_of_candidates_does_not_matter() -> None:
    result = searched()
    shuffled = list(result.candidates)
    random.Random(1).shuffle(shuffled)
    best = best_of(shuffled, result.settings)
    assert best == result.best
    assert numbers(ranked(shuffled, result.settings)) == numbers(ranked(result.candidates, result.settings))


def test_best_by_a_metric_and_its_ties() -> None:
    candidates = [complete(0, 0.9, 5.0), complete(1, 0.9, 4.0), complete(2, 0.5, 1.0)]
    for metric, number in (("accuracy", 1), ("latency", 2)):
        best = best_of(candidates, replace(TWO, best_by=metric))
        assert best is not None and best.number == number


def test_ranked_has_the_best_the_set_the_complete_and_then_the_others() -> None:
    result = searched()
    rows = ranked(result.candidates, result.settings)
    assert rows[0] == result.best
    front = len(result.pareto)
    assert {row.number for row in rows[:front]} == result.pareto_numbers
    states = [row.state for row in rows]
    assert states == sorted(states, key=["complete", "infeasible", "pruned", "failed"].index)
    assert sorted(numbers(rows)) == list(range(60))


def test_thousands_of_candidates_take_no_time() -> None:
    draw = random.Random(0)
    candidates = [complete(at, draw.random(), draw.random()) for at in range(5000)]
    assert 3 < len(pareto_set(candidates, TWO)) < 40
