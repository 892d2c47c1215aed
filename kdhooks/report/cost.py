"""What a step costs: the parts of the ledger, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdhooks.plots.drawing import BOLD, LETTER, Drawing
from kdhooks.report.numbers import counted, finite, milliseconds, percent, times
from kdhooks.report.record import Pages
from kdhooks.report.section import BROAD, NARROW, Section, both, figure, folded, paragraph, table

_ROW = 30
_NAMES = {
    "forward": "student: forward",
    "backward": "student: backward, optimizer",
    "undivided": "student: not divided",
    "graph": "the step in a graph",
    "cache": "stored outputs",
    "losses": "distillation losses",
    "ours": "kdhooks itself",
}


def step_cost(pages: Pages) -> Section | None:
    """The section of the ledger; None without one, or where no step was timed."""
    ledger = pages.run.get("ledger")
    if not ledger or not ledger.get("parts") or not ledger.get("step"):
        return None
    parts = _parts(ledger)
    broad, narrow = (_cascade(ledger, parts, width) for width in (BROAD, NARROW))
    title = f"A step of {milliseconds(1e3 * ledger['step']['mean'])}, on average, from left to right"
    body = figure(both(broad, narrow), title) + "".join(paragraph(text, "soft") for text in _beside(ledger))
    return Section("ledger", "What a step costs", _finding(ledger), body + _numbers(ledger, parts))


def _parts(ledger: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The parts that make up a step: the student's own parts stand for the student."""
    parts = ledger["parts"]
    inner = {name for name, part in parts.items() if part.get("of") == "student"}
    return [(name, part) for name, part in parts.items() if not (name == "student" and inner) and part["mean"] > 0]


def _kind(name: str, part: Mapping[str, Any]) -> str:
    if part.get("of") == "student" or name in ("student", "graph"):
        return "student"
    return "teacher" if name in ("teacher", "cache") else "other" if name == "data" else "ours"


def _cascade(ledger: Mapping[str, Any], parts: list[tuple[str, Mapping[str, Any]]], width: float) -> str:
    """A bar a part, each beginning where the one before it ended; names stand above the bars where it is narrow."""
    broad = width > 600
    row = _ROW if broad else _ROW + 14
    left = min(280.0, 14 + LETTER * max(len(_name(name)) for name, _ in parts)) if broad else 2.0
    total = sum(part["mean"] for _, part in parts)
    about = "; ".join(f"{_name(name)} {_text(part)}" for name, part in parts)
    drawing = Drawing(width, row * len(parts) + 8, "the parts of a step", about)
    room, at = width - left - 8, left
    for place, (name, part) in enumerate(parts):
        y = 4 + place * row
        wide = room * part["mean"] / total if total else 0.0
        hint = f"{_name(name)}: median {_ms(part['median'])}, quartiles {_ms(part['q1'])} to {_ms(part['q3'])}"
        if broad:
            drawing.text(left - 10, y + 19, _name(name), "tick", anchor="end", most=left - 12)
            drawing.bar(at, y + 4, max(1.0, wide), _ROW - 8, _kind(name, part), hint)
            _label(drawing, at, wide, y + 19, _text(part), left, width)
        else:
            room_of_name = width - BOLD * len(_text(part)) - 16
            drawing.text(left, y + 12, _name(name), "tick", most=room_of_name)
            drawing.text(width - 2, y + 12, _text(part), "label", anchor="end")
            drawing.bar(at, y + 18, max(1.0, wide), _ROW - 12, _kind(name, part), hint)
        at += wide
    return drawing.svg()


def _label(drawing: Drawing, at: float, wide: float, y: float, text: str, left: float, width: float) -> None:
    """The numbers of a bar behind it, or before it where there is no room."""
    needed = BOLD * len(text) + 9
    if at + wide + needed <= width:
        drawing.text(at + wide + 7, y, text, "label")
    elif at - needed >= left:
        drawing.text(at - 7, y, text, "label", anchor="end")
    else:
        drawing.text(at + wide - 7, y, text, "label inside", anchor="end")


def _name(name: str) -> str:
    return _NAMES.get(name, name)


def _ms(seconds: float) -> str:
    return milliseconds(1e3 * seconds)


def _text(part: Mapping[str, Any]) -> str:
    return f"{_ms(part['mean'])} · {percent(part['share'])}"


def _finding(ledger: Mapping[str, Any]) -> str:
    floor, parts = ledger.get("floor"), ledger["parts"]
    if floor and finite(floor.get("ratio")):
        said = f"A step takes {times(floor['ratio'])} times what the student alone would need"
        share = (parts.get("teacher") or {}).get("share")
        return f"{said}; the teacher takes {percent(share)} of it" if share else said
    return f"A step takes {_ms(ledger['step']['median'])}"


def _beside(ledger: Mapping[str, Any]) -> list[str]:
    """What is no part of a step, in sentences."""
    said = [f"{counted(ledger['steps'], 'step')} after the first on {ledger.get('device') or 'the device'}."]
    first, counts = ledger.get("first_step"), ledger.get("counts") or {}
    if first:
        said.append(f"The first step, which warms up, took {_ms(first['seconds'])}.")
    if ledger.get("hit_rate") is not None:
        asked = counts.get("hits", 0) + counts.get("misses", 0)
        said.append(f"Of {counted(asked, 'row')} {percent(ledger['hit_rate'])} were in the store.")
    if (ledger.get("outside_seconds") or 0.0) >= 5e-3:
        said.append(f"Outside of steps (setup, evaluation, checkpoints): {_ms(ledger['outside_seconds'])}.")
    for name, part in (ledger.get("elsewhere") or {}).items():
        said.append(f"In other threads: {name}, {_ms(part['sum'])} in {counted(part['times'], 'piece')}.")
    return [" ".join(said), *(f"Note: {note}." for note in ledger.get("notes") or ())]


def _numbers(ledger: Mapping[str, Any], parts: list[tuple[str, Mapping[str, Any]]]) -> str:
    rows = [
        [_name(name), _ms(part["median"]), _ms(part["q1"]), _ms(part["q3"]), _ms(part["mean"]), percent(part["share"])]
        for name, part in parts
    ]
    step = ledger["step"]
    rows.append(["step", *(_ms(step[key]) for key in ("median", "q1", "q3", "mean")), "100%"])
    head = ["part", "median", "lower quartile", "upper quartile", "mean", "share"]
    return folded("The ledger in numbers", table(head, rows, name="parts of a step"))
