"""Where student and teacher agree: the confusion between them, and the pairs of classes that they confuse most."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdhooks.compared.rows import OTHERS
from kdhooks.report.heat import Grid, drawn
from kdhooks.report.numbers import Metric, counted, finite, percent
from kdhooks.report.record import Pages
from kdhooks.report.section import Section, cells, figure, paragraph, table

_MOST_CLASSES, _SHOWN_CLASSES, _MOST_PAIRS = 30, 20, 12


@dataclass(frozen=True)
class _Confusion:
    """Counts by what the teacher says (rows) and what the student says (columns)."""

    classes: Sequence[str]
    counts: Sequence[Sequence[int]]

    def single(self) -> list[int]:
        """The places of classes; the last one of many may stand for all others, and is none."""
        last = len(self.classes) - 1
        return [at for at, name in enumerate(self.classes) if at < last or name != OTHERS or last < _MOST_CLASSES]

    def apart(self) -> list[tuple[int, int, int]]:
        """Count, row and column of all disagreements, the most frequent first."""
        single = self.single()
        found = [
            (count, row, column)
            for row in single
            for column in single
            if row != column and (count := self.counts[row][column])
        ]
        return sorted(found, key=lambda one: (-one[0], one[1], one[2]))

    def drawn_classes(self) -> list[int]:
        """All classes where they are few, else those with the most disagreements, in their own order."""
        if len(self.classes) <= _MOST_CLASSES:
            return list(range(len(self.classes)))
        weights = [0] * len(self.classes)
        for count, row, column in self.apart():
            weights[row] += count
            weights[column] += count
        ranked = sorted(self.single(), key=lambda at: (-weights[at], at))
        return sorted(at for at in ranked[:_SHOWN_CLASSES] if weights[at])


def agreement(pages: Pages) -> Section | None:
    """The section of the confusion; None without one."""
    found = pages.run.get("confusion")
    if not found or not found.get("teacher_student"):
        return None
    confusion = _Confusion([str(name) for name in found["classes"]], found["teacher_student"])
    apart = confusion.apart()
    figures = []
    chosen = confusion.drawn_classes()
    if chosen:
        few = len(chosen) < len(confusion.classes)
        note = f"Only the {counted(len(chosen), 'class', 'classes')} that are confused most." if few else ""
        figures.append(figure(_matrix(confusion, chosen), "What both say of the same rows", note))
    if apart:
        figures.append(_pairs(confusion, apart))
    body = paragraph(_accuracy(found), "soft") + cells(figures, "two")
    return Section("confusion", "Student and teacher", _finding(found, confusion), body)


def _finding(found: Mapping[str, Any], confusion: _Confusion) -> str:
    rows = finite(found.get("rows")) or sum(map(sum, confusion.counts))
    share = finite(found.get("agreement"))
    if share is None:
        same = sum(line[at] for at, line in enumerate(confusion.counts) if at < len(line))
        share = same / rows if rows else 0.0
    return f"Student and teacher agree on {percent(share)} of {counted(int(rows), 'row')}"


def _accuracy(found: Mapping[str, Any]) -> str:
    teacher = found.get("teacher") or "teacher"
    named = "" if teacher == "teacher" else f" {teacher}"
    said = (
        f"Rows: what the teacher{named} says; columns: what the student says. Grey cells are agreement; the stronger "
        "the colour of another cell, the more often they see that differently."
    )
    accuracy = found.get("accuracy") or {}
    values = {role: value for role in ("teacher", "student") if (value := finite(accuracy.get(role))) is not None}
    if len(values) < 2:
        return said
    shown = Metric.of("accuracy", values.values())
    parts = " and ".join(f"the {role} {shown.text(value)}" for role, value in values.items())
    return f"Against the labels of these rows, {parts} are right. {said}"


def _matrix(confusion: _Confusion, chosen: Sequence[int]) -> str:
    names = [confusion.classes[at] for at in chosen]
    counts = [[confusion.counts[row][column] for column in chosen] for row in chosen]
    most = max((count for r, line in enumerate(counts) for c, count in enumerate(line) if r != c), default=0)
    totals = [sum(confusion.counts[row]) for row in chosen]

    def share(row: int, column: int) -> float:
        return counts[row][column] / most if most and row != column else 0.0

    def hint(row: int, column: int) -> str:
        part = f" ({percent(counts[row][column] / totals[row])} of the teacher's)" if totals[row] else ""
        said = f"both say {names[row]}" if row == column else f"teacher {names[row]}, student {names[column]}"
        return f"{said}: {counted(counts[row][column], 'row')}{part}"

    grid = Grid(
        title="confusion between teacher and student",
        about=f"{len(names)} classes; the table beside has the most frequent disagreements",
        rows=names,
        columns=names,
        row_label="teacher",
        column_label="student",
        share=share,
        text=lambda row, column: f"{counts[row][column]}" if counts[row][column] else "",
        hint=hint,
        style=lambda row, column: "agreed" if row == column else "",
    )
    return drawn(grid)


def _pairs(confusion: _Confusion, apart: Sequence[tuple[int, int, int]]) -> str:
    rows = [
        [
            confusion.classes[row],
            confusion.classes[column],
            f"{count:,}",
            percent(count / max(1, sum(confusion.counts[row]))),
        ]
        for count, row, column in apart[:_MOST_PAIRS]
    ]
    head = ["teacher says", "student says", "rows", "share"]
    left_out = sum(count for count, _, _ in apart[_MOST_PAIRS:])
    pairs = counted(len(apart) - _MOST_PAIRS, "further pair") if left_out else ""
    more = f"{counted(left_out, 'more row')} in {pairs}." if left_out else ""
    note = f"Shares are of the rows of which the teacher says so. {more}".rstrip()
    title = "Most frequent disagreements"
    return figure(table(head, rows, words=(0, 1), name=title), title, note)
