"""What a ledger has found, as a table for a person."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

_WIDTH = 100
_LABELS = {
    "forward": "  forward",
    "backward": "  backward and optimizer",
    "undivided": "  not divided",
    "graph": "step in a graph",
}


def as_text(found: Mapping[str, Any]) -> str:
    """The table of what `kdhooks.ledger.report.as_dict` gives, and below it what stands apart."""
    counts = found["counts"]
    rows = f", {counts['rows']:,} rows" if counts.get("rows") else ""
    steps = f"{found['steps']:,} steps after the first"
    lines = [f"ledger of {steps}{rows}, {found['seconds']:.1f} s, {found['device']}"]
    if found["steps"]:
        lines += _table(found)
    lines += _beside(found)
    for note in found["notes"]:
        lines += textwrap.wrap(f"note: {note}", _WIDTH, subsequent_indent="  ")
    return "\n".join(lines)


def _beside(found: Mapping[str, Any]) -> list[str]:
    """What is no part of a step."""
    floor, counts, lines = found["floor"], found["counts"], []
    if floor is not None:
        alone = _time(floor["median"])
        lines.append(f"over the floor: {floor['ratio']:.3f} (the same step without our parts: {alone})")
    if found["hit_rate"] is not None:
        asked = counts.get("hits", 0) + counts.get("misses", 0)
        lines.append(f"stored outputs: {100 * found['hit_rate']:.1f} % of {asked:,} rows were there")
    if found["first_step"] is not None:
        lines.append(f"first step, apart: {_time(found['first_step']['seconds'])}")
    if found["outside_seconds"] >= 5e-3:
        lines.append(f"outside of steps: {found['outside_seconds']:.2f} s (setup, evaluation, checkpoints)")
    for name, part in found["elsewhere"].items():
        lines.append(f"in other threads: {name}, {part['sum']:.2f} s in {part['times']:,} pieces")
    return lines


def _table(found: Mapping[str, Any]) -> list[str]:
    unit, factor = _unit(found["step"]["median"])
    cells = [["part", f"median, {unit}", "quartiles", "share"]]
    every = {**found["parts"], "step": {**found["step"], "share": 1.0}}
    for name, part in every.items():
        median, low, high = (f"{part[key] * factor:.2f}" for key in ("median", "q1", "q3"))
        cells.append([_LABELS.get(name, name), median, f"{low} to {high}", f"{100 * part['share']:.1f} %"])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(_aligned(row, widths)) for row in cells]


def _aligned(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    """The first cell to the left, numbers to the right."""
    return [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]


def _unit(seconds: float) -> tuple[str, float]:
    return ("µs", 1e6) if seconds < 1e-3 else ("ms", 1e3) if seconds < 10 else ("s", 1.0)


def _time(seconds: float) -> str:
    unit, factor = _unit(seconds)
    return f"{seconds * factor:.2f} {unit}"
