"""The losses of a run step by step, in a bounded number of points, without keeping those that are left out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

MOST = 2_000
"""Points that are kept."""


class Curves:
    """Readings of losses, thinned evenly: every n-th is kept, and n doubles where there would be too many.

    The last reading is always among them, so a curve ends where the run does.

    Example:
        >>> curves = Curves(most=4)
        >>> for step in range(0, 100, 10):
        ...     curves.add(step, {"CE": 1.0}, None)
        >>> curves.to_dict()["step"]
        [0, 40, 80, 90]
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._every, self._readings = 1, 0
        self._points: list[_Point] = []
        self._last: _Point | None = None

    def add(self, step: int, losses: Mapping[str, float], rate: float | None) -> None:
        """One more reading; one of a step that was read already takes its place.

        Args:
            step: its number, counted as schedules count.
            losses: components by name.
            rate: the learning rate, or None.
        """
        point = (step, _short(rate), {name: _short(value) for name, value in losses.items()})
        if self._last is not None and step <= self._last[0]:
            self._replace(point)
            return
        if self._readings % self._every == 0:
            if len(self._points) >= self._most - 1:  # one is left for the last reading
                self._every *= 2
                self._points = self._points[::2]
            if self._readings % self._every == 0:
                self._points.append(point)
        self._readings += 1
        self._last = point

    def _replace(self, point: _Point) -> None:
        if self._last is None or point[0] != self._last[0]:
            return
        if self._points and self._points[-1] is self._last:
            self._points[-1] = point
        self._last = point

    def to_dict(self) -> dict[str, Any]:
        """Columns: ``step``, ``learning_rate``, ``losses`` by name; None where a step had no such component."""
        points = list(self._points)
        if self._last is not None and (not points or points[-1] is not self._last):
            points.append(self._last)
        names = dict.fromkeys(name for _, _, losses in points for name in losses)
        order = sorted(names, key=lambda name: name == "total")
        return {
            "step": [step for step, _, _ in points],
            "learning_rate": [rate for _, rate, _ in points],
            "losses": {name: [losses.get(name) for _, _, losses in points] for name in order},
            "every": self._every,
            "readings": self._readings,
        }

    @classmethod
    def from_dict(cls, columns: Mapping[str, Any], *, before: int) -> Curves:
        """Go on with what `to_dict` gave.

        Args:
            columns: of a record.
            before: the first step that is computed again; readings from there on are left out.
        """
        curves = cls()
        names, steps, rates = columns["losses"], columns["step"], columns["learning_rate"]
        points = [
            (step, rates[row], {name: names[name][row] for name in names if names[name][row] is not None})
            for row, step in enumerate(steps)
        ]
        every, readings = int(columns.get("every", 1)), int(columns.get("readings", len(points)))
        on_grid = -(-readings // every)  # of the readings so far those that were kept
        kept = [point for point in points[:on_grid] if point[0] < before]
        last = next((point for point in reversed(points) if point[0] < before), None)
        curves._every, curves._points, curves._last = every, kept, last
        if points and points[-1] is not last:  # readings were cut off, of which some were not kept
            readings = len(kept) if every == 1 else min(readings, len(kept) * every)
        curves._readings = readings
        return curves


_Point = tuple[int, float | None, dict[str, float | None]]


def _short(value: float | None) -> float | None:
    """Nine digits, which tell any two numbers of single precision apart."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.9g}")
