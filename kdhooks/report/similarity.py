"""How alike the layers of student and teacher are: two heat maps, before and after."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kdhooks.report.heat import SHADES, Grid, drawn
from kdhooks.report.numbers import finite
from kdhooks.report.record import Pages
from kdhooks.report.section import Section, cells, figure, paragraph

_MOST_LAYERS = 40

_Values = list[list[float | None]]


def layers(pages: Pages) -> Section | None:
    """The section of the layers' similarity; None without it."""
    found = pages.run.get("similarity")
    if not found or not found.get("student_layers") or not found.get("teacher_layers"):
        return None
    rows, columns = _chosen(found["student_layers"]), _chosen(found["teacher_layers"])
    parts = [(name, _values(found[name], rows, columns)) for name in ("before", "after") if found.get(name)]
    if not parts:
        return None
    names = [str(found["student_layers"][at]) for at in rows], [str(found["teacher_layers"][at]) for at in columns]
    low = _lowest([values for _, values in parts])
    figures = [
        figure(_map(name, values, names, low), f"{name} training".capitalize(), aside=_mean(values))
        for name, values in parts
    ]
    intro = (
        "Linear CKA (Kornblith and others 2019) of the outputs of two layers for the same samples: 1 where one is the "
        "other, rotated and scaled, 0 where they have nothing in common. The frame marks the teacher's layer that is "
        "the most like each layer of the student."
    )
    total = len(found["student_layers"]), len(found["teacher_layers"])
    if (len(rows), len(columns)) != total:
        intro += f" Drawn are {len(rows)} of {total[0]} and {len(columns)} of {total[1]} layers, evenly chosen."
    body = paragraph(intro, "soft") + cells(figures, "two") + _scale(low)
    return Section("similarity", "Layer similarity", _finding(parts), body)


def _lowest(maps: Sequence[_Values]) -> float:
    """Where the shades begin: a tenth below all values of both maps, which share one scale.

    >>> _lowest([[[0.71, 0.9]], [[None, 0.64]]]), _lowest([[[-0.2, 1.0]]]), _lowest([[[1.0]]])
    (0.6, 0.0, 0.9)
    """
    values = [value for values in maps for row in values for value in row if value is not None]
    return min(0.9, max(0.0, math.floor(10 * min(values)) / 10)) if values else 0.0


def _scale(low: float) -> str:
    """The shades of heat maps, from the lowest value to 1."""
    shades = "".join(f'<i class="h{at}"></i>' for at in range(SHADES))
    return f'<p class="scale" aria-hidden="true"><span>{low:g}</span>{shades}<span>1</span></p>'


def _chosen(names: Sequence[Any]) -> list[int]:
    """All places, or as many as are drawn, evenly."""
    if len(names) <= _MOST_LAYERS:
        return list(range(len(names)))
    return [round(at * (len(names) - 1) / (_MOST_LAYERS - 1)) for at in range(_MOST_LAYERS)]


def _values(matrix: Sequence[Sequence[Any]], rows: Sequence[int], columns: Sequence[int]) -> _Values:
    return [[finite(matrix[row][column]) for column in columns] for row in rows]


def _best(row: Sequence[float | None]) -> tuple[float, int] | None:
    there = [(value, -place) for place, value in enumerate(row) if value is not None]
    return (max(there)[0], -max(there)[1]) if there else None


def _mean_best(values: _Values) -> float | None:
    """The mean over the student's layers of the similarity with the teacher's layer that is most like it."""
    found = [best[0] for row in values if (best := _best(row)) is not None]
    return sum(found) / len(found) if found else None


def _mean(values: _Values) -> str:
    mean = _mean_best(values)
    return "" if mean is None else f"best matches: {mean:.2f} on average"


def _map(name: str, values: _Values, names: tuple[Sequence[str], Sequence[str]], low: float) -> str:
    rows, columns = names
    best = [None if (found := _best(row)) is None else found[1] for row in values]
    grid = Grid(
        title=f"similarity of layers {name} training",
        about=f"{len(rows)} layers of the student by {len(columns)} layers of the teacher; {_mean(values)}",
        rows=rows,
        columns=columns,
        row_label="student",
        column_label="teacher",
        share=lambda row, column: None if (value := values[row][column]) is None else (value - low) / (1 - low),
        text=lambda row, column: _short(values[row][column]),
        hint=lambda row, column: f"{rows[row]} · {columns[column]}: {_long(values[row][column])}",
        style=lambda row, column: "marked" if best[row] == column else "",
        keep_end=True,
    )
    return drawn(grid)


def _long(value: float | None) -> str:
    return "not known" if value is None else f"{value:.3f}"


def _short(value: float | None) -> str:
    """Two digits without the zero in front."""
    return "" if value is None else f"{value:.2f}".replace("0.", ".") if value < 0.995 else "1"


def _finding(parts: Sequence[tuple[str, _Values]]) -> str:
    means = {name: mean for name, values in parts if (mean := _mean_best(values)) is not None}
    if set(means) != {"before", "after"}:
        said = next((f"{mean:.2f} {name} training" for name, mean in means.items()), "not known")
        return f"Each layer's best match in the teacher: {said}, on average"
    before, after = means["before"], means["after"]
    gap = after - before
    word = "grew nearer to" if gap >= 0.01 else "moved away from" if gap <= -0.01 else "stayed as near to"
    tail = f"best matches from {before:.2f} to {after:.2f}" if abs(gap) >= 0.01 else f"best matches at {after:.2f}"
    return f"The student's layers {word} the teacher's: {tail}"
