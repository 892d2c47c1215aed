"""The trade-off between two metrics: all candidates, and the line that none lies beyond."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations
from typing import TYPE_CHECKING

from kdhooks.plots.drawing import WIDTH, Drawing
from kdhooks.plots.frame import frame
from kdhooks.plots.scales import Scale
from kdhooks.search.candidates import Candidate
from kdhooks.search.results.pareto import scores_of, undominated
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

_HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 420, 78, 16, 34, 50
_MOST_PAIRS = 10


def metric_pairs(metrics: tuple[str, ...]) -> list[tuple[str, str]]:
    """The pairs that are drawn: all of them, or those with the first metric where there would be more than ten."""
    pairs = list(combinations(metrics, 2))
    return pairs if len(pairs) <= _MOST_PAIRS else [pair for pair in pairs if pair[0] == metrics[0]]


def pareto_plot(result: SearchResult, first: str, second: str) -> str:
    """Two metrics of all candidates as SVG, the first one upwards; quartiles are drawn where they are known.

    With more than two metrics the line is the front of these two, and the Pareto set of all is marked.
    """
    rows = [
        (row, across, up)
        for row in result.candidates
        if (across := shown_value(result, row, second)) is not None
        and (up := shown_value(result, row, first)) is not None
    ]
    if not rows:
        return ""
    drawing = Drawing(WIDTH, _HEIGHT, f"{first} against {second}")
    shown = [row for row, _, _ in rows]
    x = metric_scale(result, second, shown, _LEFT, WIDTH - _RIGHT)
    y = metric_scale(result, first, shown, _HEIGHT - _BOTTOM, _TOP)
    frame(drawing, x, y, x_label=axis_label(result, second), y_label=axis_label(result, first))
    drawing.path(list(_front(result, first, second, x, y)), "front-line", "front of these two metrics")
    for row, across, up in sorted(rows, key=lambda item: list(MARKERS).index(_drawn_last(result, item[0]))):
        _whiskers(drawing, result, row, (first, y), (second, x))
        mark_candidate(drawing, kind_of(result, row), x.at(across), y.at(up), hint_of(result, row))
    tell_beyond(drawing, sum(not (x.reaches(across) and y.reaches(up)) for _, across, up in rows))
    seen = {kind_of(result, row) for row, _, _ in rows}
    legend(drawing, _LEFT, 14, [kind for kind in MARKERS if kind in seen], [("front-line", "front")])
    return drawing.svg()


def _drawn_last(result: SearchResult, row: Candidate) -> str:
    """The best and the Pareto set are drawn over the others."""
    kind = kind_of(result, row)
    return {"best": "failed", "front": "pruned"}.get(kind, "complete")


def _front(result: SearchResult, first: str, second: str, x: Scale, y: Scale) -> Iterator[tuple[float, float]]:
    """The corners of the staircase that nothing lies beyond."""
    metrics, directions = result.settings.metrics, result.settings.higher_is_better
    at = (metrics.index(second), metrics.index(first))
    points: dict[tuple[float, ...], tuple[float, float]] = {}
    for row in result.candidates:
        scores = scores_of(row, result.settings)
        values = shown_value(result, row, second), shown_value(result, row, first)
        if scores is not None and values[0] is not None and values[1] is not None:
            points[scores[at[0]], scores[at[1]]] = (values[0], values[1])
    before = None
    # From the best of the second metric on, each further point is better in the first one.
    for point in sorted(undominated(list(points)), reverse=True):
        across, up = points[point]
        if before is not None:
            yield x.at(across), y.at(before)
        yield x.at(across), y.at(up)
        before = up
    if before is None:
        yield x.start, y.start
    else:
        yield (x.start if directions[at[0]] else x.end), y.at(before)


def _whiskers(
    drawing: Drawing, result: SearchResult, row: Candidate, first: tuple[str, Scale], second: tuple[str, Scale]
) -> None:
    """Thin lines from quartile to quartile."""
    for (name, scale), (other, crossing) in ((first, second), (second, first)):
        at = shown_value(result, row, other)
        if name not in row.spread or at is None:
            continue
        factor, fixed = result.quantities[name].factor, crossing.at(at)
        low, high = (scale.at(end / factor) for end in row.spread[name])
        drawing.line(*((fixed, low, fixed, high) if name == first[0] else (low, fixed, high, fixed)), "whisker")
