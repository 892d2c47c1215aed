"""The ledger of a profile: every moment of a step belongs to exactly one part, so that the parts add up to the step.

A row is one step: a first stamp, then the name of each stretch of time and the stamp at its end. What lies between two
of our calls is the loop's own, and gets its name when the next call comes, which is when we know what it was. A loop
that makes only the call for the loss has steps from loss to loss; one that says where a step ends has steps to there.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

from kdhooks.errors import UsageError
from kdhooks.ledger.elsewhere import Elsewhere
from kdhooks.ledger.nothing import OFF, Border, Ledger
from kdhooks.ledger.rows import OUTSIDE, Rows
from kdhooks.ledger.stopwatch import Stopwatch

_GAPS: dict[tuple[Border | None, Border], str] = {
    (None, "begin"): OUTSIDE,  # before the first step
    ("begin", "loss"): "forward",
    ("loss", "end"): "backward",
    ("end", "begin"): "data",
}
"""What a loop does between two borders; between others, more than one thing."""

_GAPS_OF_FIT = _GAPS | {("loss", "begin"): "backward", ("end", "begin"): "ours"}
"""The built-in loop accumulates gradients between losses, and times its waiting for data as a part."""

_GRAPH: set[tuple[Border | None, Border]] = {("begin", "end"), ("begin", "begin"), ("end", "end")}
"""Between these a step runs in a graph, as one whole, where steps do."""


class StepLedger(Ledger):
    """Times the parts of steps, from `open` to `close`; `kdhooks.Distillation.profile` makes it.

    Args:
        steps: after the first one, how many are timed; None times all.

    Attributes:
        options: what the run was told to do, as plain data.
        seconds: from opening to closing, by the host's clock.
    """

    # the step that is under way
    _row: list[Any]
    _gap: list[Any]  # like a row's end, of the time since the last border
    _into: list[Any]  # what parts are written to: the row while the loop calls us, and otherwise the gap
    _holes: list[int]  # places in the gap of names that are not known yet
    _stack: list[str]
    _last: Border | None
    _had_begin: bool
    _had_loss: bool

    def __init__(self, steps: int | None = None) -> None:
        if steps is not None and steps < 1:
            raise UsageError(f"profile(steps={steps}): at least one step has to be timed; None times all")
        self.options: dict[str, Any] = {}
        self.seconds = 0.0
        self.rows, self.first = Rows(), dict[str, float]()
        self.counts: dict[str, int] = {}
        self.elsewhere = Elsewhere()
        self.traced = self.foreign = False
        self._watch_by(Stopwatch())
        self._steps, self._closed = steps, 0
        self._active = self._built_in = False
        self._lock = threading.Lock()
        self._parts: dict[str, _Part] = {}
        self._borders = {kind: _Crossing(self, kind) for kind in ("begin", "loss", "end")}
        self._pending: deque[list[Any]] = deque()  # rows whose times the device doesn't know yet
        self._owner, self._opened = threading.get_ident(), time.perf_counter()
        self._restart()

    # ---- what the run calls --------------------------------------------------------------------------

    def part(self, name: str) -> AbstractContextManager[object]:
        """Time what the block does under a name; a part inside of a part counts for the inner one only."""
        if not self._times():
            return OFF.part(name)
        if threading.get_ident() != self._owner:
            return self.elsewhere.part(name)
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = _Part(self, name)
        return part

    def count(self, name: str, number: int) -> None:
        """Add to a count."""
        if self._active:
            with self._lock:
                self.counts[name] = self.counts.get(name, 0) + number

    def border(self, kind: Border) -> AbstractContextManager[object]:
        """What the block does is ours, and the time since the last border was the loop's."""
        if not self._times():
            return OFF.border(kind)
        if threading.get_ident() != self._owner:
            self.foreign = True
            return OFF.border(kind)
        return self._borders[kind]

    def step_of(self, given: Any) -> None:
        """Count the rows of a loss's input."""
        if self._times():
            rows, counts = _rows_of(given), self.counts
            with self._lock:
                counts["losses"] = counts.get("losses", 0) + 1
                counts["rows"] = counts.get("rows", 0) + rows

    def epoch_begins(self) -> None:
        """What lies between the last step and now belongs to no step: nor does a step that found no more data."""
        if not self._times() or threading.get_ident() != self._owner or self._had_loss:
            return
        self._row += (*self._gap, OUTSIDE, self._stamp())
        self._row[1::2] = [OUTSIDE] * (len(self._row) // 2)
        self._gap, self._holes = [], []
        self._into, self._last, self._had_begin = self._gap, None, False

    def began(self, stopwatch: Stopwatch) -> None:
        """A run begins, and is timed with this stopwatch."""
        self._settle(wait=True)
        self._watch_by(stopwatch)
        self._restart()

    def of_built_in_loop(self, yes: bool) -> None:
        """The built-in loop begins or ends."""
        self._built_in = yes

    # ---- from profile() ------------------------------------------------------------------------------

    def open(self) -> None:
        """Begin to time."""
        self._active, self._owner = True, threading.get_ident()
        self._opened = time.perf_counter()
        self._restart()

    def close(self) -> None:
        """Stop, and wait for the times that the device doesn't know yet."""
        if self._had_loss:
            self._close_row()
        self._active = False
        self._settle(wait=True)
        self.seconds = time.perf_counter() - self._opened

    def so_far(self) -> float:
        """Seconds since opening, of a ledger that is still open; 0 of one that never was."""
        return time.perf_counter() - self._opened if self._active else 0.0

    def to_dict(self) -> dict[str, Any]:
        """All that is known, as plain data for JSON; times in seconds. See docs/ledger.md for its keys."""
        from kdhooks.ledger.report import as_dict

        return as_dict(self)

    def save(self, path: str | Path) -> Path:
        """Write `to_dict` as JSON; returns the path."""
        from kdhooks.ledger.report import write

        return write(self.to_dict(), Path(path))

    def __str__(self) -> str:
        from kdhooks.ledger.table import as_text

        return as_text(self.to_dict())

    # ---- within --------------------------------------------------------------------------------------

    def _times(self) -> bool:
        if not self._active:
            return False
        if self.watch.tracing is not None and self.watch.tracing():
            self.traced = True
            return False
        return True

    def _watch_by(self, stopwatch: Stopwatch) -> None:
        self.watch = stopwatch
        # the clock itself where it is the host's: one call less, at some ten moments of a step
        plain = type(stopwatch).stamp is Stopwatch.stamp
        self._stamp: Callable[[], Any] = time.perf_counter if plain else stopwatch.stamp

    def _restart(self) -> None:
        """Forget a step that is under way."""
        self._row, self._gap, self._holes, self._stack = [self._stamp()], [], [], []
        self._into, self._last = self._gap, None
        self._had_begin = self._had_loss = False

    def _open_part(self, name: str) -> None:
        if self._stack:
            self._into += (self._stack[-1], self._stamp())
        else:
            self._holes.append(len(self._gap))
            self._gap += (None, self._stamp())
        self._stack.append(name)

    def _close_part(self) -> None:
        if self._stack and self._active:
            self._into += (self._stack.pop(), self._stamp())

    def _enter(self, kind: Border) -> None:
        name = self._name_of_gap(kind)
        for place in self._holes:
            self._gap[place] = name
        if kind != "end" and not self._built_in and (self._had_loss or (self._had_begin and kind == "begin")):
            self._close_row()
        self._row += self._gap
        self._row += (self._stack[-1] if self._stack else name, self._stamp())  # the loop's own part may be around us
        self._gap, self._holes = [], []
        self._stack, self._into = ["ours"], self._row

    def _name_of_gap(self, kind: Border) -> str:
        borders = (self._last, kind)
        if self.traced and borders in _GRAPH:
            return "graph"
        return (_GAPS_OF_FIT if self._built_in else _GAPS).get(borders, "student")

    def _leave(self, kind: Border) -> None:
        if not self._stack or not self._active:  # opened, restarted or closed within
            return
        self._row += (self._stack.pop(), self._stamp())
        self._into = self._gap
        self._last = kind
        self._had_begin |= kind == "begin"
        self._had_loss |= kind == "loss"
        if kind == "end" and (self._had_loss or self._had_begin or self.traced):
            self._close_row()

    def _close_row(self) -> None:
        row = self._row
        self._row, self._had_begin, self._had_loss = [row[-1]], False, False
        self._pending.append(row)
        self._closed += 1
        if self._steps is not None and self._closed > self._steps:
            self._active = False
        self._settle()

    def _settle(self, *, wait: bool = False) -> None:
        """Take the rows whose times are known."""
        while self._pending:
            row = self._pending[0]
            if wait:
                self.watch.wait(row[-1])
            elif not self.watch.known(row[-1]):
                return
            self._pending.popleft()
            parts = self._times_of(row)
            self.watch.give_back(row[:-1:2])  # the last one is the next row's first
            if not self.first:
                self.first = parts
            else:
                self.rows.add(parts)

    def _times_of(self, row: list[Any]) -> dict[str, float]:
        parts: dict[str, float] = {}
        for name, seconds in zip(row[1::2], self.watch.between(row[::2]), strict=True):
            parts[name] = parts.get(name, 0.0) + seconds
        return parts


class _Part:
    """A part by name; one object serves all its blocks."""

    __slots__ = ("_ledger", "_name")

    def __init__(self, ledger: StepLedger, name: str) -> None:
        self._ledger, self._name = ledger, name

    def __enter__(self) -> None:
        self._ledger._open_part(self._name)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger._close_part()


class _Crossing:
    """A border; one object serves all steps."""

    __slots__ = ("_kind", "_ledger")

    def __init__(self, ledger: StepLedger, kind: Border) -> None:
        self._ledger, self._kind = ledger, kind

    def __enter__(self) -> None:
        self._ledger._enter(self._kind)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ledger._leave(self._kind)


def _rows_of(given: Any) -> int:
    """The length of the first axis of the first array in an input; 0 where there is none, or it is not known."""
    try:
        shape = getattr(given, "shape", None)
        if shape is not None:
            return int(shape[0]) if len(shape) and shape[0] is not None else 0
    except (RuntimeError, TypeError, ValueError):  # a nested tensor, an unknown rank: the loop goes on uncounted
        return 0
    if isinstance(given, Mapping):
        given = tuple(given.values())
    if isinstance(given, (list, tuple)):
        return next((rows for one in given if (rows := _rows_of(one))), 0)
    return 0
