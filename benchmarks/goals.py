"""What is aimed for, beside what was measured: one line a goal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple


class Goal(NamedTuple):
    """One aim: what is measured, its value, the bound, and whether the value must be above it."""

    what: str
    value: float
    bound: float
    unit: str = ""
    at_least: bool = False

    @property
    def reached(self) -> bool:
        """Whether the value keeps to the bound."""
        return self.value >= self.bound if self.at_least else self.value <= self.bound


def of_ratios(found: Mapping[str, Any], case: str) -> list[Goal]:
    """The goals among the ratios of a part."""
    return [
        Goal(f"{case}: {one['of']} / {one['to']}", one["median"], one["at_most"])
        for one in found["ratios"]
        if one["at_most"] is not None
    ]


def table(goals: Iterable[Goal]) -> str:
    """All goals, those that were not reached in bold."""
    lines = ["| goal | measured | bound | reached |", "| --- " * 4 + "|"]
    for goal in goals:
        words = "at least" if goal.at_least else "at most"
        lines.append(
            f"| {goal.what} | {goal.value:.3g}{goal.unit} | {words} {goal.bound:g}{goal.unit} "
            f"| {'yes' if goal.reached else '**no**'} |"
        )
    return "\n".join(lines)
