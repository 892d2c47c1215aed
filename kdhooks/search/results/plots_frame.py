"""What the plots share: scales for metrics, markers for the states of candidates, legends, hints."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from kdhooks.plots.drawing import LETTER, Drawing
from kdhooks.plots.scales import Scale, scale_for
from kdhooks.search.candidates import Candidate
from kdhooks.search.results.table import value_text

if TYPE_CHECKING:
    from kdhooks.search.results.result import SearchResult

MARKERS = {
    "complete": "complete",
    "front": "Pareto set",
    "best": "best",
    "infeasible": "infeasible",
    "pruned": "pruned",
    "failed": "failed",
}
"""What a drawing marks, and its name in a legend."""


def metric_scale(result: SearchResult, name: str, rows: Sequence[Candidate], start: float, end: float) -> Scale:
    """A scale for a metric of candidates that have it, `start` being the px of its smaller numbers.

    Numbers on the bad side that are farther from the middle half than three times its width would press all others
    together: they don't count, unless they are of the Pareto set, and stand at the scale's end.
    """
    values = {row.number: value for row in rows if (value := shown_value(result, row, name)) is not None}
    ordered = sorted(values.values())
    low, high = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    reach = 3 * (high - low)
    higher = result.settings.higher_is_better[result.settings.metrics.index(name)]
    counting = [
        value
        for number, value in values.items()
        if number in result.pareto_numbers or reach == 0 or (value >= low - reach if higher else value <= high + reach)
    ]
    return scale_for(counting, start, end)


def tell_beyond(drawing: Drawing, count: int) -> None:
    """Say how many markers stand at an end of a scale, and not at their place."""
    if count:
        text = f"{count} far off, at the edge"
        drawing.text(drawing.width - 16, 18, text, "tick", anchor="end")


def mark_candidate(drawing: Drawing, kind: str, x: float, y: float, hint: str = "") -> None:
    """The marker of one of `MARKERS`; they differ in shape, not in colour alone."""
    if kind == "best":
        drawing.star(x, y, 9, "best", hint)
    elif kind == "failed":
        drawing.cross(x, y, 3.6, "failed", hint)
    elif kind == "pruned":
        drawing.triangle(x, y, 4, "pruned", hint)
    else:
        drawing.circle(x, y, 4.6 if kind == "front" else 4, kind, hint)


def legend(drawing: Drawing, x: float, y: float, kinds: Sequence[str], lines: Sequence[tuple[str, str]] = ()) -> None:
    """Markers and lines with their names, side by side.

    Args:
        drawing: where it stands.
        x: px of its left end.
        y: px of the middle of its line.
        kinds: keys of `MARKERS`.
        lines: styles of lines, and what they are.
    """
    for kind in kinds:
        mark_candidate(drawing, kind, x + 5, y)
        drawing.text(x + 16, y + 4, MARKERS[kind], "tick")
        x += 32 + LETTER * len(MARKERS[kind])
    for style, name in lines:
        drawing.line(x, y, x + 20, y, style)
        drawing.text(x + 26, y + 4, name, "tick")
        x += 42 + LETTER * len(name)


def kind_of(result: SearchResult, candidate: Candidate) -> str:
    """Which of `MARKERS` a candidate is."""
    if result.best is not None and candidate.number == result.best.number:
        return "best"
    if candidate.state == "complete" and len(result.settings.metrics) > 1 and candidate.number in result.pareto_numbers:
        return "front"
    return candidate.state


def hint_of(result: SearchResult, candidate: Candidate) -> str:
    """All that matters of a candidate, for a pointer that rests on it."""
    lines = [f"#{candidate.number} {candidate.state}"]
    lines += [
        f"{name}: {result.quantities[name].with_unit(candidate.metrics[name])}"
        for name in result.settings.metrics
        if name in candidate.metrics
    ]
    lines += [
        f"{name} = {value_text(candidate.arch, name)}" for name in result.parameter_names if name in candidate.arch
    ]
    return "\n".join([*lines, *([candidate.reason] if candidate.reason else [])])


def axis_label(result: SearchResult, name: str) -> str:
    """A metric's name with its unit and its better direction."""
    higher = result.settings.higher_is_better[result.settings.metrics.index(name)]
    return f"{result.quantities[name].label}, {'higher' if higher else 'lower'} is better"


def shown_value(result: SearchResult, candidate: Candidate, name: str) -> float | None:
    """A metric in the unit that it is shown in; None where it is missing or not finite."""
    value = candidate.metrics.get(name, math.nan)
    return value / result.quantities[name].factor if math.isfinite(value) else None
