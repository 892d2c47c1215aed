"""The course of a search: each candidate's value in the order of proposals, and the best so far."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdhooks.plots.drawing import WIDTH, Drawing
from kdhooks.plots.frame import frame
from kdhooks.plots.scales import Scale
from kdhooks.search.candidates import Candidate
from kdhooks.search.results.pareto import scores_of
from kdhooks.search.results.plots_frame import (
    MARKERS,
    axis_label,
    hint_of,
    kind_of,
    legend,
    mark_candidate,
    metric_scale,
    shown_value,
    tell_beyond,
)

if TYPE_CHECKING:
    from kdhooks.search.results.result import SearchResult

_HEIGHT, _LEFT, _RIGHT, _TOP, _STRIP = 310, 78, 16, 34, 22


def history_plot(result: SearchResult, metric: str) -> str:
    """One metric of all candidates by number, as SVG; those without a value stand in a strip below.

    Args:
        result: of the search.
        metric: one of those that are searched for.
    """
    valued = {row.number: value for row in result.candidates if (value := shown_value(result, row, metric)) is not None}
    if not valued:
        return ""
    without = [row for row in result.candidates if row.number not in valued and row.state in MARKERS]
    drawing = Drawing(WIDTH, _HEIGHT, f"history of {metric}")
    bottom = _HEIGHT - 46 - (_STRIP if without else 0)
    numbers = [row.number for row in result.candidates]
    x = Scale(min(numbers) - 0.7, max(numbers) + 0.7, _LEFT, WIDTH - _RIGHT)
    y = metric_scale(result, metric, result.candidates, bottom, _TOP)
    frame(drawing, x, y, x_label="", y_label=axis_label(result, metric))
    drawing.text((x.start + x.end) / 2, _HEIGHT - 8, "candidate", "label", anchor="middle")
    drawing.path(_best_so_far(result, metric, valued, x, y), "bestline", "best so far")
    ordered = sorted(result.candidates, key=lambda row: kind_of(result, row) == "best")
    for row in (row for row in ordered if row.number in valued):
        mark_candidate(drawing, kind_of(result, row), x.at(row.number), y.at(valued[row.number]), hint_of(result, row))
    for row in without:
        mark_candidate(drawing, row.state, x.at(row.number), bottom + _STRIP + 8, hint_of(result, row))
    tell_beyond(drawing, sum(not y.reaches(value) for value in valued.values()))
    seen = {kind_of(result, row) for row in result.candidates}
    legend(drawing, _LEFT, 14, [kind for kind in MARKERS if kind in seen], [("bestline", "best so far")])
    return drawing.svg()


def _best_so_far(
    result: SearchResult, metric: str, valued: dict[int, float], x: Scale, y: Scale
) -> list[tuple[float, float]]:
    """A staircase through the best values of the candidates that count."""
    place = result.settings.metrics.index(metric)
    counting: list[Candidate] = [row for row in result.candidates if scores_of(row, result.settings) is not None]
    points: list[tuple[float, float]] = []
    best = None
    for row in counting:
        score = (scores_of(row, result.settings) or ())[place]
        if best is None or score > best:
            best, height = score, y.at(valued[row.number])
            points += [(x.at(row.number), points[-1][1] if points else height), (x.at(row.number), height)]
    return [*points, (x.end, points[-1][1])] if points else [(x.start, y.start)]
