"""The times of many steps in little memory: each part's in an array, thinned out when it grows long."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence

KEPT = 65_536
"""Steps that are kept at most; beyond, every second one is forgotten, and from then on every second one is taken."""

OUTSIDE = "outside"


class Rows:
    """Seconds of each part for a sample of steps, and their sums over all of them.

    Attributes:
        count: steps that were added.
        sums: seconds by part, of all steps.
        kept: seconds by part, of the steps that are kept, in order; all arrays have one length.
    """

    def __init__(self, kept: int = KEPT) -> None:
        self.count = 0
        self.sums: dict[str, float] = {}
        self.kept: dict[str, array[float]] = {}
        self.length = 0
        self._limit, self._stride = kept, 1

    def add(self, parts: Mapping[str, float]) -> None:
        """Take the parts of one step, in seconds."""
        for name, seconds in parts.items():
            self.sums[name] = self.sums.get(name, 0.0) + seconds
        self.count += 1
        if (self.count - 1) % self._stride:
            return
        if not parts.keys() <= self.kept.keys():
            for name in parts.keys() - self.kept.keys():
                self.kept[name] = array("d", bytes(8 * self.length))
        for name, column in self.kept.items():
            column.append(parts.get(name, 0.0))
        self.length += 1
        if self.length == self._limit:
            for column in self.kept.values():
                del column[1::2]
            self.length, self._stride = (self.length + 1) // 2, 2 * self._stride

    def columns(self, names: Sequence[str]) -> list[float]:
        """The sum of some parts, for each step that is kept."""
        there = [self.kept[name] for name in names if name in self.kept]
        return [sum(values) for values in zip(*there, strict=True)] if there else [0.0] * self.length


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median and quartiles, by linear interpolation between the sorted values (type 7 of Hyndman and Fan 1996).

    >>> quantiles([4.0, 1.0, 3.0, 2.0])
    {'median': 2.5, 'q1': 1.75, 'q3': 3.25}
    """
    ordered = sorted(values)

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (place - low) * (ordered[high] - ordered[low])

    return {"median": at(0.5), "q1": at(0.25), "q3": at(0.75)}
