"""Heat maps: a grid of cells, the stronger the more, with names at its sides that are shortened and never overlap."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdhooks.plots.drawing import LETTER, Drawing, shortened

WIDTH = 380
"""Of a heat map in px."""

SHADES = 8
"""Classes ``heat0`` (none) to ``heat7`` (most) of cells; the texts in them are ``on0`` to ``on7``."""

_LINE, _LONGEST = 13.0, 104.0


@dataclass(frozen=True)
class Grid:
    """What is drawn.

    Attributes:
        title, about: for a screen reader.
        rows, columns: their names.
        row_label, column_label: what the rows and the columns are.
        share: how strong a cell is, from 0 to 1; None leaves it empty.
        text: of a cell; drawn where there is room for the texts of all cells.
        hint: of a cell.
        style: of a cell beside its shade: ``agreed`` takes the place of the shade, ``marked`` is framed.
        keep_end: whether the ends of long names are kept.
    """

    title: str
    about: str
    rows: Sequence[str]
    columns: Sequence[str]
    row_label: str
    column_label: str
    share: Callable[[int, int], float | None]
    text: Callable[[int, int], str]
    hint: Callable[[int, int], str]
    style: Callable[[int, int], str]
    keep_end: bool = False


def drawn(grid: Grid) -> str:
    """A heat map as SVG: rows from above, columns from the left, the columns' names turned below it."""
    left = 26 + min(_LONGEST, LETTER * max(len(name) for name in grid.rows))
    turned = LETTER * max(len(name) for name in grid.columns) > (WIDTH - left - 4) / len(grid.columns) - 4
    below = min(_LONGEST, LETTER * max(len(name) for name in grid.columns)) if turned else 14.0
    wide = (WIDTH - left - 4) / len(grid.columns)
    high = min(max(wide, 6.0), 40.0, 380.0 / len(grid.rows)) if len(grid.rows) > 1 else min(wide, 40.0)
    height = 6 + high * len(grid.rows) + below + 26
    drawing = Drawing(WIDTH, height, grid.title, grid.about)
    texts = [[grid.text(row, column) for column in range(len(grid.columns))] for row in range(len(grid.rows))]
    longest = max(len(text) for line in texts for text in line)
    fits = wide >= LETTER * longest + 3 and high >= 14
    for row in range(len(grid.rows)):
        for column in range(len(grid.columns)):
            x, y = left + column * wide, 6 + row * high
            _cell(drawing, grid, row, column, (x, y, wide, high), texts[row][column] if fits else "")
    _row_names(drawing, grid, left, high)
    bottom = 6 + high * len(grid.rows)
    _column_names(drawing, grid, (left, wide, bottom), turned)
    drawing.turned(13, 6 + high * len(grid.rows) / 2, shortened(grid.row_label, max(40, bottom - 6)), "label")
    drawing.text(left + wide * len(grid.columns) / 2, height - 6, grid.column_label, "label", anchor="middle")
    return drawing.svg()


def shade(share: float | None) -> int:
    """The class of a share.

    >>> shade(0.0), shade(0.49), shade(1.0), shade(None)
    (0, 3, 7, 0)
    """
    return 0 if share is None else min(SHADES - 1, max(0, int(share * SHADES)))


def _cell(
    drawing: Drawing, grid: Grid, row: int, column: int, box: tuple[float, float, float, float], text: str
) -> None:
    x, y, wide, high = box
    share, extra = grid.share(row, column), grid.style(row, column)
    gap = 1.0 if min(wide, high) > 9 else 0.3
    strength = shade(share)
    style = "empty" if share is None else "agreed" if extra == "agreed" else f"heat{strength} {extra}".strip()
    drawing.bar(x, y, wide - gap, high - gap, style, grid.hint(row, column))
    if text and share is not None:
        on = "ina" if extra == "agreed" else f"on{strength}"
        drawing.text(x + (wide - gap) / 2, y + high / 2 + 4, text, on, anchor="middle")


def _row_names(drawing: Drawing, grid: Grid, left: float, high: float) -> None:
    every = max(1, -(-_LINE // high))
    for row in range(0, len(grid.rows), int(every)):
        name = shortened(grid.rows[row], left - 26, end=grid.keep_end)
        drawing.text(left - 5, 6 + row * high + high / 2 + 4, name, "tick", anchor="end", most=left)


def _column_names(drawing: Drawing, grid: Grid, place: tuple[float, float, float], turned: bool) -> None:
    left, wide, bottom = place
    every = int(max(1, -(-_LINE // wide))) if turned else 1
    for column in range(0, len(grid.columns), every):
        x, name = left + (column + 0.5) * wide, grid.columns[column]
        if turned:
            short = shortened(name, _LONGEST, end=grid.keep_end)
            drawing.turned(x + 4, bottom + 5, short, "tick", anchor="end", hint=name if short != name else "")
        else:
            drawing.text(x, bottom + 14, name, "tick", anchor="middle")
