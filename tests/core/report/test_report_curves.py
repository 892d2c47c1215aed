"""Curves: nothing that is seen gets lost when a line is thinned, gaps stay gaps, steps lie in their epochs."""

from __future__ import annotations

import random
import re

from kdhooks.report.curves import Chart, Level, Line, drawn, thinned
from kdhooks.report.heat import Grid, shade
from kdhooks.report.heat import drawn as heat_map
from kdhooks.report.record import Pages
from tests.core.report.made_up import record


def columns(points: list[tuple[float, float]]) -> dict[int, tuple[float, float]]:
    """Lowest and highest of each column of pixels."""
    found: dict[int, tuple[float, float]] = {}
    for x, y in points:
        low, high = found.get(round(x), (y, y))
        found[round(x)] = (min(low, y), max(high, y))
    return found


def test_a_thinned_line_covers_the_same_pixels() -> None:
    chance = random.Random(0)
    points = [(at / 40, chance.random() + (50.0 if at == 7_777 else 0.0)) for at in range(12_000)]
    few = thinned(points)
    assert len(few) <= 4 * 301 < len(points) / 9
    assert columns(few) == columns(points)
    assert few[0] == points[0] and few[-1] == points[-1]
    assert few == sorted(few)
    for x in range(
        1, 300
    ):  # the lines between columns are the same: from the last point of one to the first of the next
        before = [point for point in points if round(point[0]) == x][-1]
        assert before in few


def test_a_short_line_is_left_as_it_is() -> None:
    points = [(10.0 * at, float(at)) for at in range(30)]
    assert thinned(points) == points


def pieces(svg: str, style: str) -> list[int]:
    """Points in each piece of a line."""
    return [path.count("L") + 1 for path in re.findall(rf'<path d="(M[^"]*)" class="{style}"', svg)]


def test_gaps_are_gaps_and_marked() -> None:
    ys = [1.0, 2.0, None, 4.0, None, None, 3.0, 2.0, 1.0]
    svg = drawn(Chart("c", "", [Line(list(range(9)), ys, "main", "epoch")]), 306, 190)
    assert pieces(svg, "main") == [2, 3]
    assert len(re.findall('class="dot main"', svg)) == 6  # the lonely one has its dot
    assert re.findall(r"<title>(epoch [^<]*no finite number)</title>", svg) == [
        f"epoch {at}: no finite number" for at in (2, 4, 5)
    ]


def test_without_a_number_there_is_no_chart() -> None:
    assert drawn(Chart("c", "", [Line([0, 1], [None, None], "main")]), 306, 190) == ""


def test_long_lines_have_few_hints_and_the_last_one() -> None:
    line = Line(list(range(1000)), [float(at) for at in range(1000)], "main", "epoch")
    svg = drawn(Chart("c", "", [line]), 306, 190)
    hints = re.findall("<title>epoch ([0-9]+): ", svg)
    assert 50 <= len(hints) <= 61 and hints[-1] == "999"


def test_axes_of_ratios_are_taken_where_values_span_them() -> None:
    wide = drawn(Chart("c", "", [Line([0, 1], [0.01, 10.0], "main")]), 306, 190)
    near = drawn(Chart("c", "", [Line([0, 1], [8.0, 10.0], "main")]), 306, 190)
    assert ">log scale<" in wide and "log scale" not in near


def test_levels_are_inside_of_the_axis() -> None:
    chart = Chart("c", "", [Line([0, 1], [1.0, 2.0], "main")], levels=[Level(9.0, "teacher 9", "level")])
    svg = drawn(chart, 306, 190)
    height = float(re.findall(r'<line [^>]*y1="([\d.]+)"[^>]*class="level"', svg)[0])
    assert 6 < height < 40 and ">teacher 9</text>" in svg


def test_epochs_have_whole_numbers() -> None:
    svg = drawn(Chart("c", "", [Line([0, 1, 2], [1.0, 2.0, 3.0], "main")], log=False), 306, 190)
    assert re.findall(r'text-anchor="middle" class="tick">([^<]*)<', svg) == ["0", "1", "2"]


def test_steps_lie_in_their_epochs() -> None:
    run = record(2)
    run["history"][0] |= {"epoch": 4, "steps": 10}
    run["history"][1] |= {"epoch": 5, "steps": 20}
    run["steps"] = {"step": [0, 5, 9, 10, 20, 30, 31], "learning_rate": [None] * 7, "losses": {"CE": [1.0] * 7}}
    assert Pages(run).steps_in_epochs == [3.5, 4.0, 4.4, 4.5, 5.0, 5.5, 5.55]
    assert Pages({**run, "history": []}).steps_in_epochs == [0, 5, 9, 10, 20, 30, 31]


def grid(rows: int, columns: int, text: str = ".12") -> str:
    return heat_map(
        Grid(
            *("t", "a", [f"r{at}" for at in range(rows)], [f"c{at}" for at in range(columns)], "rows", "columns"),
            share=lambda row, column: None if row == column == 0 else (row + column) / (rows + columns - 2),
            text=lambda row, column: text,
            hint=lambda row, column: f"{row},{column}",
            style=lambda row, column: "marked" if row == column else "",
        )
    )


def test_a_heat_map_has_every_cell_with_its_hint_and_shade() -> None:
    svg = grid(3, 4)
    cells = re.findall(r'<rect [^>]*class="([^"]*)"><title>(\d),(\d)</title>', svg)
    assert cells[0] == ("empty", "0", "0") and cells[-1] == ("heat7", "2", "3")
    assert [(int(row), int(column)) for _, row, column in cells] == [(r, c) for r in range(3) for c in range(4)]
    assert cells[5][0] == f"heat{shade(2 / 5)} marked"
    assert svg.count(">.12</text>") == 11  # not in the empty one
    assert ">.12</text>" not in grid(30, 30)
