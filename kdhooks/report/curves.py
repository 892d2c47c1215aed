"""Curves over epochs: lines with gaps where a number is missing or not finite, thinned out without a visible trace.

Long lines keep, of all points in one column of pixels, the first, the last, the lowest and the highest: the line that
is drawn covers the same pixels (M4: Jugel, Jerzak, Hackenbroich and Markl 2014, "M4: a visualization-oriented time
series data aggregation").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from kdhooks.plots.drawing import LETTER, Drawing
from kdhooks.plots.frame import frame
from kdhooks.plots.scales import Scale, scale_for, tick_texts

_MOST_DOTS = 60
_TOP, _RIGHT, _BOTTOM = 6, 10, 38


@dataclass(frozen=True)
class Line:
    """One line of a chart.

    Attributes:
        xs: in rising order.
        ys: as many; None leaves a gap.
        style: class of the line; its dots have the class ``dot`` and this one.
        hint: begins what a pointer is told, as in ``epoch 3: 0.91``; empty draws no dots.
        texts: of the values, for hints.
    """

    xs: Sequence[float]
    ys: Sequence[float | None]
    style: str
    hint: str = ""
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class Level:
    """A horizontal line, with its name.

    Attributes:
        value: where it stands.
        name: written on it.
        style: class of the line.
    """

    value: float
    name: str
    style: str


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes:
        title: what a screen reader says.
        about: the numbers in words.
        lines: the first one is drawn first; with gaps of the last one marked.
        levels: horizontal lines.
        best: a point that is marked with a star, with its hint.
        x_label: what x counts.
        unit: of the numbers at the left axis.
        log: whether the left axis is one of ratios; None decides by the values.
    """

    title: str
    about: str
    lines: Sequence[Line]
    levels: Sequence[Level] = ()
    best: tuple[float, float, str] | None = None
    x_label: str = "epoch"
    unit: str = ""
    log: bool | None = None


def drawn(chart: Chart, width: float, height: float) -> str:
    """A chart as SVG; empty where no line has a finite number.

    Args:
        chart: what is drawn.
        width: in px.
        height: in px.
    """
    values = [y for line in chart.lines for y in line.ys if y is not None]
    xs = [x for line in chart.lines for x in line.xs]
    if not values:
        return ""
    drawing = Drawing(width, height, chart.title, chart.about)
    bottom = height - _BOTTOM
    y = scale_for(
        [*values, *(level.value for level in chart.levels)], bottom, _TOP + 14 * len(chart.levels), log=chart.log
    )
    left = 14 + LETTER * max(len(text) for text in _tick_texts(y))
    apart = max(max(xs) - min(xs), 1.0)
    x = Scale(min(xs) - 0.02 * apart, max(xs) + 0.02 * apart, left, width - _RIGHT)
    if len(set(xs)) == 1:
        x = Scale(min(xs) - 0.5, max(xs) + 0.5, left, width - _RIGHT)
    frame(drawing, x, y, whole=True)
    drawing.text(width - _RIGHT, height - 4, chart.x_label, "tick", anchor="end")
    if chart.unit or y.log:
        unit = ", ".join(filter(None, [chart.unit, "log scale" if y.log else ""]))
        drawing.text(left, height - 4, unit, "tick")
    for level in chart.levels:
        drawing.line(x.start, y.at(level.value), x.end, y.at(level.value), level.style)
    for line in chart.lines:
        _draw(drawing, line, x, y)
    if chart.lines:
        _mark_gaps(drawing, chart.lines[-1], x, bottom)
    if chart.best is not None:
        drawing.star(x.at(chart.best[0]), y.at(chart.best[1]), 8, "bestmark", chart.best[2])
    _name_levels(drawing, chart.levels, x, y)
    return drawing.svg()


def _tick_texts(y: Scale) -> list[str]:
    return tick_texts(y.ticks(max(3, int(abs(y.end - y.start) / 34)))) or [""]


def _draw(drawing: Drawing, line: Line, x: Scale, y: Scale) -> None:
    """The pieces between gaps, and dots with hints."""
    points = [(at, None if value is None else (x.at(line.xs[at]), y.at(value))) for at, value in enumerate(line.ys)]
    for empty, piece in groupby(points, key=lambda point: point[1] is None):
        places = [place for _, place in piece if place is not None]
        if not empty and len(places) > 1:
            drawing.path(thinned(places), line.style)
    there = [(at, place) for at, place in points if place is not None]
    if not line.hint:
        return
    few = len(there) <= _MOST_DOTS
    for at, (across, up) in _spread(there):
        text = line.texts[at] if line.texts else f"{line.ys[at]:.4g}"
        drawing.circle(
            across, up, 2.6 if few else 5, f"dot {line.style}" if few else "hit", f"{line.hint} {line.xs[at]:g}: {text}"
        )


def _spread(points: Sequence[tuple[int, tuple[float, float]]]) -> Iterator[tuple[int, tuple[float, float]]]:
    """At most about sixty of them, the last one among them."""
    every = max(1, -(-len(points) // _MOST_DOTS))
    for place, point in enumerate(points):
        if place % every == 0 or place == len(points) - 1:
            yield point


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of the points of each column of pixels the first, the lowest, the highest and the last.

    Args:
        points: in px, with rising x.

    >>> thinned([(0.0, 1.0), (0.1, 9.0), (0.2, 5.0), (0.3, 4.0), (0.4, 6.0), (1.0, 3.0)])
    [(0.0, 1.0), (0.1, 9.0), (0.4, 6.0), (1.0, 3.0)]
    """
    kept: list[tuple[float, float]] = []
    for _, column in groupby(points, key=lambda point: round(point[0])):
        found = list(column)
        heights = [height for _, height in found]
        chosen = {0, heights.index(min(heights)), heights.index(max(heights)), len(found) - 1}
        kept += [found[place] for place in sorted(chosen)]
    return kept


def _mark_gaps(drawing: Drawing, line: Line, x: Scale, bottom: float) -> None:
    """A cross on the axis for what was not finite, at most one in three px."""
    before = -9.0
    for at, value in zip(line.xs, line.ys, strict=True):
        if value is None and x.at(at) - before >= 3:
            before = x.at(at)
            drawing.cross(before, bottom, 3.2, "gap", f"{line.hint or 'step'} {at:g}: no finite number")


def _name_levels(drawing: Drawing, levels: Sequence[Level], x: Scale, y: Scale) -> None:
    """Names of levels, at the left end and above each line, moved apart where lines are close."""
    before = float("inf")
    for level in sorted(levels, key=lambda one: y.at(one.value), reverse=True):
        height = min(y.at(level.value) - 5, before - 14)
        before = height
        drawing.text(x.start + 6, height, level.name, "tick halo", most=x.end - x.start - 12)
