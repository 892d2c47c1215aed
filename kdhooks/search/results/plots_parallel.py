"""Parallel coordinates: every complete candidate as a line through its parameters and metrics."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdhooks.config.search_settings import Dimension, Range
from kdhooks.plots.drawing import LETTER, WIDTH, Drawing, shortened
from kdhooks.plots.scales import Scale, scale_for, tick_texts
from kdhooks.search.candidates import Candidate
from kdhooks.search.results.pareto import scores_of
from kdhooks.search.results.plots_frame import hint_of, metric_scale
from kdhooks.search.results.table import ABSENT, broken_name, value_text

if TYPE_CHECKING:
    from kdhooks.search.results.result import SearchResult

SHADES = 8
"""Classes ``shade0`` (worst) to ``shade7`` (best) of lines."""

_HEIGHT, _TOP, _BOTTOM, _APART, _SIDE, _MOST_LINES, _MOST_WORDS = 430, 62, 34, 132, 60, 500, 14
_ABSENT_STRIP, _FLOOR = 34, float(_HEIGHT - _BOTTOM - 6)


@dataclass(frozen=True)
class Upright:
    """One axis.

    Attributes:
        name, note: above it, the second in a smaller line.
        ticks: heights in px, and texts.
        height_of: a candidate's height in px.
        words: whether its values are a few texts, so that lines are spread a little around them.
    """

    name: str
    note: str
    ticks: Sequence[tuple[float, str]]
    height_of: Callable[[Candidate], float]
    words: bool = False


def parallel_plot(result: SearchResult) -> str:
    """Parameters in the order of the space, then the metrics with the better end up, as SVG.

    Lines are shaded by the first metric: the better, the stronger; the best candidate is drawn last. Of very many
    candidates the best 500 are drawn. A conditional parameter that a candidate lacks is at the dash below.
    """
    rows = [row for row in result.candidates if scores_of(row, result.settings) is not None]
    rows = sorted(rows, key=lambda row: _first_score(result, row))[-_MOST_LINES:]
    if len(rows) < 2:
        return ""
    space = {dimension.name: dimension for dimension in result.settings.search_space}
    uprights = [_parameter(name, space.get(name), rows) for name in result.parameter_names]
    uprights += [_metric(result, name, rows) for name in result.settings.metrics]
    drawing = Drawing(max(WIDTH, 2 * _SIDE + _APART * (len(uprights) - 1)), _HEIGHT, "parallel coordinates")
    places = [_SIDE + (drawing.width - 2 * _SIDE) * at / max(1, len(uprights) - 1) for at in range(len(uprights))]
    order = [row for row in rows if row is not result.best] + [row for row in rows if row is result.best]
    for at, row in enumerate(order):
        style = "bestpath" if row is result.best else f"shade{at * SHADES // len(order)}"
        points = [
            (x, upright.height_of(row) + (_jitter(row.number) if upright.words else 0.0))
            for x, upright in zip(places, uprights, strict=True)
        ]
        drawing.path(points, f"run {style}", hint_of(result, row))
    for x, upright in zip(places, uprights, strict=True):
        _draw(drawing, x, upright, (drawing.width - 2 * _SIDE) / max(1, len(uprights) - 1))
    return drawing.svg()


def _first_score(result: SearchResult, row: Candidate) -> tuple[float, int]:
    return (scores_of(row, result.settings) or (0.0,))[0], -row.number


def _jitter(number: int) -> float:
    """Lines with the same word lie a little apart: up to 6 px, by a sequence that spreads evenly."""
    return 12 * (number * 0.6180339887 % 1.0) - 6


def _draw(drawing: Drawing, x: float, upright: Upright, room: float) -> None:
    drawing.line(x, _TOP, x, _HEIGHT - _BOTTOM, "axis")
    lines = broken_name(upright.name, int((room - 12) / LETTER))
    lines = lines if len(lines) <= 2 else [lines[0], "".join(lines[1:])]
    for at, line in enumerate(lines):
        drawing.text(x, 14 + 15 * at + 15 * (2 - len(lines)), line, "label", anchor="middle", most=room - 6)
    drawing.text(x, 45, upright.note, "tick", anchor="middle", most=room - 6)
    for y, text in upright.ticks:
        drawing.line(x - 4, y, x + 4, y, "axis")
        drawing.text(x + 7, y + 4, shortened(text, room * 0.6), "tick halo")


def _parameter(name: str, dimension: Dimension | None, rows: Sequence[Candidate]) -> Upright:
    """An axis of a parameter: places for a few values, a scale for many numbers."""
    present = [row.arch[name] for row in rows if name in row.arch]
    values = _few(dimension, present)
    # A conditional parameter has a place of its own, below the others, for candidates without it.
    lowest = _HEIGHT - _BOTTOM - (0 if len(present) == len(rows) else _ABSENT_STRIP)
    if values is None:
        return _numbers(
            name, [float(value) for value in present], lowest, isinstance(dimension, Range) and dimension.log
        )
    return _words(name, [value_text({name: value}, name) for value in values], lowest)


def _few(dimension: Dimension | None, present: Sequence[Any]) -> list[Any] | None:
    """The values that have a place each, in their order; None for numbers that need a scale."""
    if isinstance(dimension, Range):
        step = 1 if dimension.integer and not dimension.log and dimension.step is None else dimension.step
        count = (dimension.high - dimension.low) / step + 1 if step else math.inf
        if step and count <= _MOST_WORDS:
            return [_whole(dimension.low + step * at) for at in range(round(count))]
        return None if present else []
    values = list(dimension.values) if dimension is not None else _distinct(present)
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in present)
    return None if numbers and len(values) > _MOST_WORDS else values


def _whole(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def _numbers(name: str, present: Sequence[float], lowest: float, log: bool) -> Upright:
    scale = scale_for(present, lowest, _TOP + 8, log=log)
    marks = _ticks(scale) + _absent(lowest)
    return Upright(
        name, "log" if log else "", marks, lambda row: scale.at(row.arch[name]) if name in row.arch else _FLOOR
    )


def _words(name: str, texts: Sequence[str], lowest: float) -> Upright:
    top, bottom = _TOP + 10.0, lowest - 10.0
    apart = (bottom - top) / max(1, len(texts) - 1)
    heights = {text: bottom - apart * at if len(texts) > 1 else (bottom + top) / 2 for at, text in enumerate(texts)}
    marks = [(heights[text], text) for text in texts][:: 1 + len(texts) // 25] + _absent(lowest)
    return Upright(name, "", marks, lambda row: heights.get(value_text(row.arch, name), _FLOOR), words=True)


def _absent(lowest: float) -> list[tuple[float, str]]:
    return [(_FLOOR, f"{ABSENT} absent")] if lowest < _HEIGHT - _BOTTOM else []


def _ticks(scale: Scale) -> list[tuple[float, str]]:
    values = scale.ticks(7)
    return [(scale.at(value), text) for value, text in zip(values, tick_texts(values), strict=True)]


def _distinct(values: Sequence[Any]) -> list[Any]:
    found = list({repr(value): value for value in values}.values())
    try:
        return sorted(found)
    except TypeError:
        return sorted(found, key=repr)


def _metric(result: SearchResult, name: str, rows: Sequence[Candidate]) -> Upright:
    """An axis of a metric with its better end up."""
    quantity = result.quantities[name]
    higher = result.settings.higher_is_better[result.settings.metrics.index(name)]
    ends = (_HEIGHT - _BOTTOM, _TOP) if higher else (_TOP, _HEIGHT - _BOTTOM)
    scale = metric_scale(result, name, rows, *ends)
    note = f"{quantity.unit}, better is up".lstrip(", ")
    return Upright(name, note, _ticks(scale), lambda row: scale.at(row.metrics[name] / quantity.factor))
