"""Axes as mappings from numbers to px, and round numbers on them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class Scale:
    """Maps numbers to px.

    Attributes:
        low, high: the numbers at the two ends, low < high.
        start, end: their px; `end` may be the smaller one.
        log: whether equal ratios are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The px of a value; one beyond an end stands at that end.

        >>> Scale(0, 10, 100, 0).at(2.5), Scale(1, 100, 0, 10, log=True).at(10), Scale(0, 10, 100, 0).at(11)
        (75.0, 5.0, 0.0)
        """
        value = min(max(value, self.low), self.high)
        low, high = (math.log(self.low), math.log(self.high)) if self.log else (self.low, self.high)
        place = math.log(value) if self.log else value
        return self.start + (self.end - self.start) * (place - low) / (high - low)

    def reaches(self, value: float) -> bool:
        """Whether a value lies between the ends."""
        return self.low <= value <= self.high

    def ticks(self, most: int = 6) -> list[float]:
        """Round numbers inside of it, at most about `most`."""
        return _log_ticks(self.low, self.high, most) if self.log else _ticks(self.low, self.high, most)


def scale_for(values: Sequence[float], start: float, end: float, *, log: bool | None = None) -> Scale:
    """A scale that has all values with a margin; logarithmic where they are positive and span a factor of 20.

    Args:
        values: finite numbers, at least one.
        start: px of the lower end.
        end: px of the upper end.
        log: whether it is logarithmic; None decides by the values.
    """
    low, high = min(values), max(values)
    if log is None:
        log = low > 0 and high / low > 20
    if log and low > 0:
        margin = max((high / low) ** 0.05, 1.05)
        return Scale(low / margin, high * margin, start, end, log=True)
    margin = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
    return Scale(low - margin, high + margin, start, end)


def _ticks(low: float, high: float, most: int) -> list[float]:
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(size * power for size in (1, 2, 5, 10) if size * power >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)]


def _log_ticks(low: float, high: float, most: int) -> list[float]:
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for sizes in ((1, 2, 5), (1, 3), (1,)):
        found = [size * 10.0**power for power in powers for size in sizes]
        found = [value for value in found if low * 0.999 <= value <= high * 1.001]
        if len(found) <= most:
            break
    else:
        found = found[:: math.ceil(len(found) / most)]
    return found if len(found) > 1 else _ticks(low, high, most)


def tick_texts(values: Sequence[float]) -> list[str]:
    """Ticks with as many digits as tell them apart.

    >>> tick_texts([0.9, 0.95, 1.0]), tick_texts([1000, 2000]), tick_texts([0.001, 0.01, 0.1])
    (['0.90', '0.95', '1.00'], ['1000', '2000'], ['0.001', '0.01', '0.1'])
    """
    sizes = [abs(value) for value in values if value]
    if not sizes:
        return ["0" for _ in values]
    steps = [after - before for before, after in pairwise(values)] or sizes
    if max(sizes) >= 1e6 or max(sizes) < 1e-3:
        return [f"{value:.2g}" if value else "0" for value in values]
    if max(steps) > 1.01 * min(steps):  # of a logarithmic scale
        return [f"{value:g}" for value in values]
    decimals = max(0, -math.floor(math.log10(min(steps)) + 1e-9))
    return [f"{value:.{min(decimals, 6)}f}" for value in values]
