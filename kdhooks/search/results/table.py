"""A search's candidates as a table: for the terminal in a given width, and whole as Markdown or for the page."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdhooks.measurement.quantities import duration
from kdhooks.search.candidates import Candidate
from kdhooks.search.results.pareto import STATES, ranked

if TYPE_CHECKING:
    from kdhooks.search.results.result import SearchResult

ABSENT = "-"
_HEADER_WIDTH, _CELL_WIDTH, _REASONS = 14, 18, 10


@dataclass(frozen=True)
class Column:
    """One column: its name, what its numbers are in, and a text for each row."""

    name: str
    cells: Sequence[str]
    unit: str = ""
    kind: str = ""

    def heading(self) -> list[str]:
        """The name, broken at underscores where it is long, and the unit."""
        lines = broken_name(self.name, _HEADER_WIDTH)
        return [*lines, f"[{self.unit}]"] if self.unit else lines

    @property
    def width(self) -> int:
        """Characters that it needs."""
        return max(len(line) for line in [*self.heading(), *self.cells])


def broken_name(name: str, width: int) -> list[str]:
    """A name in lines of about this many letters, broken at underscores.

    >>> broken_name("num_feedforward_networks", 14)
    ['num_', 'feedforward_', 'networks']
    """
    return [line.replace("_ ", "_") for line in textwrap.wrap(name.replace("_", "_ "), width)] or [""]


def columns(result: SearchResult, rows: Sequence[Candidate]) -> list[Column]:
    """All columns of a table: number, state, metrics of the search, parameters, what else was measured, seconds.

    Args:
        result: whose candidates they are; units and digits suit all of them.
        rows: the candidates that the table shows, in its order.
    """
    others = [name for name in result.quantities if name not in result.settings.metrics]
    return [
        Column("#", [str(row.number) for row in rows]),
        Column("state", [row.state for row in rows], kind="text"),
        *(_metric(result, name, rows, "metric") for name in result.settings.metrics),
        *(_parameter(name, rows) for name in result.parameter_names),
        *(_metric(result, name, rows, "other") for name in others),
        Column("seconds", [f"{row.seconds:.1f}" for row in rows]),
    ]


def _parameter(name: str, rows: Sequence[Candidate]) -> Column:
    return Column(name, [value_text(row.arch, name) for row in rows], kind="parameter")


def _metric(result: SearchResult, name: str, rows: Sequence[Candidate], kind: str) -> Column:
    shown = result.quantities[name]
    return Column(name, [shown.text(row.metrics.get(name)) for row in rows], shown.unit, kind)


def value_text(arch: Any, name: str) -> str:
    """A parameter's value as a cell has it; a conditional one that is not there is a dash."""
    if name not in arch:
        return ABSENT
    value = arch[name]
    lower = value is None or isinstance(value, bool)
    text = f"{value:.4g}" if isinstance(value, float) else str(value).lower() if lower else str(value)
    return text.replace("\n", " ")


def text_table(result: SearchResult, *, top: int, width: int) -> str:
    """The table for a terminal; see `SearchResult.table`."""
    lines = textwrap.wrap(summary(result), width)
    if not result.candidates:
        return "\n".join(lines)
    rows = ranked(result.candidates, result.settings)[: max(1, top)]
    marks = Column("", [mark(result, row) for row in rows], kind="text")
    fitting, left_out = _fitted([_clipped(column) for column in columns(result, rows)], width - 4)
    lines += _lines([marks, *fitting])
    notes = [_meaning(result)] if result.best is not None else []
    if len(rows) < len(result):
        shown = {row.number for row in rows}
        rest = [row for row in result.candidates if row.number not in shown]
        notes.append(f"not shown: {len(rest)} more: {states(rest)}")
    if left_out:
        notes.append(f"columns left out for want of width: {', '.join(left_out)}")
    for note in [*notes, *_reasons(result)]:
        lines += textwrap.wrap(note, width, subsequent_indent="  ", break_on_hyphens=False)
    return "\n".join(lines)


def summary(result: SearchResult) -> str:
    """What was searched, how, and what came of it, in one line."""
    settings = result.settings
    begin = f"{result.name or 'search'}: {settings.search_algorithm}, seed {settings.seed}"
    if not result.candidates:
        return f"{begin}; no candidate yet"
    seconds = duration(sum(row.seconds for row in result.candidates))
    plural = "" if len(result) == 1 else "s"
    return f"{begin}; {len(result)} candidate{plural} in {seconds}: {states(result.candidates)}"


def states(rows: Iterable[Candidate]) -> str:
    """How many candidates have which state."""
    counts = Counter(row.state for row in rows)
    return ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])  # type: ignore[index]


def mark(result: SearchResult, row: Candidate) -> str:
    """``*`` for the best candidate, ``+`` for those of the Pareto set where there are several metrics."""
    best = "*" if result.best is not None and row.number == result.best.number else " "
    several = len(result.settings.metrics) > 1
    return best + ("+" if several and row.number in result.pareto_numbers else " ")


def rule(result: SearchResult) -> str:
    """How the best one was chosen, in words."""
    settings = result.settings
    if len(settings.metrics) == 1 or settings.best_by in settings.metrics:
        return f"by {settings.best_by if settings.best_by in settings.metrics else settings.metrics[0]}"
    return "of the Pareto set the nearest to the ideal point"


def _meaning(result: SearchResult) -> str:
    if len(result.settings.metrics) == 1:
        return "* the best"
    return f"* the best: {rule(result)}; + the Pareto set"


def _clipped(column: Column) -> Column:
    cells = [cell if len(cell) <= _CELL_WIDTH else cell[: _CELL_WIDTH - 3] + "..." for cell in column.cells]
    return Column(column.name, cells, column.unit, column.kind)


def _fitted(found: list[Column], width: int) -> tuple[list[Column], list[str]]:
    """The columns that a width has room for, and the names of those left out.

    What else was measured goes first, then parameters that are the same in every row, then the last ones.
    """
    kept, left_out = list(found), []
    while sum(column.width + 2 for column in kept) > width:
        spare = [column for column in kept if column.kind == "other"]
        spare = spare or [column for column in kept if column.kind == "parameter" and len(set(column.cells)) == 1]
        spare = spare or [column for column in kept if column.kind == "parameter"]
        if not spare:
            break
        kept.remove(spare[-1])
        left_out.append(spare[-1].name)
    return kept, [column.name for column in found if column.name in left_out]


def _lines(found: Sequence[Column]) -> list[str]:
    """Columns as lines, with the headings' last lines side by side."""
    headings = [column.heading() for column in found]
    depth = max(len(heading) for heading in headings)
    texts = []
    for column, heading in zip(found, headings, strict=True):
        lines = [*heading, *[""] * (depth - len(heading)), *column.cells]
        texts.append([f"{line:{'<' if column.kind == 'text' else '>'}{column.width}}" for line in lines])
    return ["  ".join(row).rstrip() for row in zip(*texts, strict=True)]


def _reasons(result: SearchResult) -> list[str]:
    """Why candidates failed, were infeasible or were pruned: one line for all with the same reason."""
    groups: dict[tuple[str, str], list[int]] = {}
    for row in sorted(result.candidates, key=lambda row: (row.state != "failed", row.number)):
        if row.reason:
            groups.setdefault((row.state, row.reason), []).append(row.number)
    lines = [
        f"{state}: {_numbers(numbers)}: {textwrap.shorten(reason, 300, placeholder=' ...')}"
        for (state, reason), numbers in list(groups.items())[:_REASONS]
    ]
    more = len(groups) - len(lines)
    return [*lines, f"{more} more reasons are in result.json"] if more else lines


def _numbers(numbers: Sequence[int]) -> str:
    shown = ", ".join(f"#{number}" for number in numbers[:8])
    return f"{shown} and {len(numbers) - 8} more" if len(numbers) > 8 else shown


def markdown_table(result: SearchResult) -> str:
    """All candidates with every column; see `SearchResult.markdown`."""
    rows = ranked(result.candidates, result.settings)
    found = [Column("", [mark(result, row).strip() for row in rows], kind="text"), *columns(result, rows)]
    if any(row.reason for row in rows):
        found.append(Column("reason", [row.reason for row in rows], kind="text"))
    lines = [[f"{column.name} [{column.unit}]" if column.unit else column.name for column in found]]
    lines += [list(cells) for cells in zip(*(column.cells for column in found), strict=True)]
    rules = ["---" if column.kind == "text" else "---:" for column in found]
    lines.insert(1, rules)
    return "\n".join(f"| {' | '.join(_markdown(cell) for cell in line)} |" for line in lines)


def _markdown(cell: str) -> str:
    """A cell whose signs are no Markdown."""
    flat = " ".join(cell.split())
    return "".join(f"\\{letter}" if letter in "\\|*_`<[" else letter for letter in flat)
