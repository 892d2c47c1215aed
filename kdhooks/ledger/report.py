"""What a ledger has found, as plain data.

Rules: the first step, which warms up, compiles and chooses, stands apart, and so does what lies outside of steps. The
floor is a step without our parts: an estimate from the same steps, since the backward of the distillation's losses runs
in the student's own and can't be told from it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdhooks.ledger.machine import machine, versions
from kdhooks.ledger.rows import OUTSIDE, quantiles

if TYPE_CHECKING:
    from kdhooks.ledger.steps import StepLedger

FORMAT, VERSION = "kdhooks.ledger", 1

STUDENT = ("forward", "backward", "student")
"""What makes up the student's part; the last one is what could not be divided."""

OURS = ("teacher", "cache", "losses", "ours")
"""What a step has because of us."""

_ORDER = ("student", "data", "graph", *OURS)
_NO_STEP = "no step was timed: on_after_compute_loss was not called twice while the profile was open"
_NO_STEP_IN_GRAPH = (
    "no step was timed: the loss is computed in a graph (a tf.function), where Python sees the tracing only; call "
    "on_step_begin() and on_step_end() outside of it, or let fit() or the callback train"
)
_GRAPH = "steps run in a graph: the ledger sees each as a whole, and the inside of a graph isn't divided"
_FOREIGN = "losses were computed in other threads than the one that opened the profile, and are not in it"
_BARE = (
    "student: all that lies between our calls, so the forward, the backward, the optimizer and the data together; "
    "on_step_begin() and on_step_end() divide it"
)
_FLOOR = "the backward of the distillation's losses runs in the student's and counts as its part"


def as_dict(ledger: StepLedger) -> dict[str, Any]:
    """All of a ledger as plain data; times in seconds."""
    rows, counts = ledger.rows, dict(sorted(ledger.counts.items()))
    asked = counts.get("hits", 0) + counts.get("misses", 0)
    found: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "machine": machine(),
        "versions": versions(),
        "device": ledger.watch.device,
        "options": ledger.options,
        "seconds": ledger.seconds or ledger.so_far(),
        "steps": rows.count,
        "first_step": _first(ledger.first),
        "outside_seconds": rows.sums.get(OUTSIDE, 0.0) + ledger.first.get(OUTSIDE, 0.0),
        "counts": counts,
        "hit_rate": counts.get("hits", 0) / asked if asked else None,
        "in_graph": ledger.traced,
        "step": None,
        "parts": {},
        "floor": None,
        "elsewhere": {
            name: {"sum": seconds, "times": ledger.elsewhere.times[name]}
            for name, seconds in sorted(ledger.elsewhere.seconds.items())
        },
    }
    if rows.count:
        found |= _steady(ledger)
    return found | {"notes": _notes(ledger, found)}


def _first(parts: Mapping[str, float]) -> dict[str, Any] | None:
    """The first step of all, with its parts."""
    inside = {name: seconds for name, seconds in parts.items() if name != OUTSIDE}
    return {"seconds": sum(inside.values()), "parts": inside} if parts else None


def _steady(ledger: StepLedger) -> dict[str, Any]:
    """The steps after the first one: all of a step, its parts, and what it would be without us."""
    rows = ledger.rows
    names = [name for name in rows.sums if name != OUTSIDE]
    whole = rows.columns(names)
    total = sum(rows.sums[name] for name in names)
    groups: dict[str, tuple[str, ...]] = {name: (name,) for name in names if name not in STUDENT}
    if any(name in rows.sums for name in STUDENT):
        groups["student"] = STUDENT
    order = sorted(groups, key=lambda name: _ORDER.index(name) if name in _ORDER else len(_ORDER))
    parts: dict[str, Any] = {}
    for group in order:
        parts[group] = _part(ledger, groups[group], total)
        inner = {name: (name,) for name in STUDENT if group == "student" and name in rows.sums}
        if len(inner) > 1 or "student" not in inner:
            parts |= {_inner(name): _part(ledger, one, total) | {"of": "student"} for name, one in inner.items()}
    floor = None
    if "graph" not in names and any(name in rows.sums for name in STUDENT):
        alone = rows.columns([name for name in names if name not in OURS])
        ratios = [step / least for step, least in zip(whole, alone, strict=True) if least > 0]
        floor = {**quantiles(alone), "ratio": quantiles(ratios)["median"]} if ratios else None
    step = {**quantiles(whole), "mean": total / rows.count, "sum": total}
    return {"step": step, "parts": parts, "floor": floor}


def _inner(name: str) -> str:
    return "undivided" if name == "student" else name


def _part(ledger: StepLedger, names: tuple[str, ...], total: float) -> dict[str, Any]:
    rows = ledger.rows
    seconds = sum(rows.sums.get(name, 0.0) for name in names)
    found = {**quantiles(rows.columns(names)), "mean": seconds / rows.count, "sum": seconds}
    return found | {"share": seconds / total if total else 0.0}


def _notes(ledger: StepLedger, found: Mapping[str, Any]) -> list[str]:
    """What a reader must know to read the figures rightly."""
    parts = found["parts"]
    notes = []
    if not found["steps"]:
        notes.append(_NO_STEP_IN_GRAPH if ledger.traced else _NO_STEP)
    elif "graph" in parts:
        notes.append(_GRAPH)
    elif "student" in parts and "forward" not in parts and "backward" not in parts:
        notes.append(_BARE)
    if found["floor"] is not None and "losses" in parts:
        notes.append(_FLOOR)
    if ledger.foreign:
        notes.append(_FOREIGN)
    return [*notes, ledger.watch.note] if ledger.watch.note else notes


def write(found: Mapping[str, Any], path: Path) -> Path:
    """Write plain data as JSON, whole or not at all; returns the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path
