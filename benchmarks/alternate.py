"""Sides that are measured in turn in one process, and what is said of their times.

Rules: every round runs every side once and swaps the order of the round before, so that a machine that slows
down slows all of them. A figure is the median over rounds, a ratio the median of the rounds' own ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

Side = Callable[[int], object]
"""One step of a side; its argument is the number of the round, which says what batch it gets."""


class Aim(NamedTuple):
    """A ratio of two sides' times, and what it may be at most; None where nothing is aimed for."""

    of: str
    to: str
    at_most: float | None = None


def alternate(sides: Mapping[str, Side], rounds: int, *, warm_up: int = 2) -> dict[str, list[float]]:
    """Seconds of every side, round by round; the first `warm_up` rounds are not counted."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-warm_up, rounds):
        for name in sides if number % 2 else reversed(list(sides)):
            began = time.perf_counter()
            sides[name](number)
            took = time.perf_counter() - began
            if number >= 0:
                times[name].append(took)
    return times


def spread(values: Iterable[float]) -> dict[str, Any]:
    """The median and the quartiles; of fewer than four values their least and largest."""
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[-1 - len(ordered) // 4]
    return {"median": statistics.median(ordered), "quartiles": [low, high]}


def ratio(times: Mapping[str, list[float]], aim: Aim) -> dict[str, Any]:
    """The rounds' own ratios of two sides."""
    found = spread(mine / theirs for mine, theirs in zip(times[aim.of], times[aim.to], strict=True))
    return {"of": aim.of, "to": aim.to, "at_most": aim.at_most, **found}


def figures(times: Mapping[str, list[float]], aims: Iterable[Aim]) -> dict[str, Any]:
    """Times and ratios as plain data; aims of sides that were not measured are left out."""
    return {
        "rounds": max(map(len, times.values())),
        "seconds": {name: spread(values) for name, values in times.items()},
        "ratios": [ratio(times, aim) for aim in aims if aim.of in times and aim.to in times],
    }


def times_table(found: Mapping[str, Any], base: str) -> str:
    """Median times, and each one's share of the side `base`."""
    whole = found["seconds"][base]["median"]
    unit, factor = ("s", 1.0) if whole >= 10 else ("ms", 1e3)
    lines = [f"| side | {unit} | quartiles | share |", "| --- " * 4 + "|"]
    for name, side in found["seconds"].items():
        low, high = (value * factor for value in side["quartiles"])
        middle = side["median"]
        lines.append(f"| {name} | {middle * factor:.1f} | {low:.1f} to {high:.1f} | {middle / whole:.2f} |")
    return "\n".join(lines)


def ratios_table(ratios: Iterable[Mapping[str, Any]]) -> str:
    """Ratios beside what they may be at most."""
    lines = ["| ratio | measured | quartiles | at most | reached |", "| --- " * 5 + "|"]
    for one in ratios:
        low, high = one["quartiles"]
        aim, middle = one["at_most"], one["median"]
        lines.append(f"| {one['of']} / {one['to']} | {middle:.3f} | {low:.3f} to {high:.3f} | {verdict(middle, aim)} |")
    return "\n".join(lines)


def verdict(value: float, at_most: float | None) -> str:
    """Two cells: the aim, and whether it is reached."""
    if at_most is None:
        return "– | –"
    return f"{at_most:g} | {'yes' if value <= at_most else '**no**'}"
