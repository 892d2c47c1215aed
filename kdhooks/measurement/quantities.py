"""How the numbers of one metric are shown together: a column or an axis has one unit and one number of digits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import median

from kdhooks.measurement.definitions import DEFINITIONS
from kdhooks.measurement.measured import STEPS

_PLAIN = ((1.0, ""),)


@dataclass(frozen=True)
class Quantity:
    """A metric as it is shown.

    Attributes:
        name: of the metric.
        unit: of the shown numbers; empty where they have none.
        factor: a shown number is the metric divided by this.
        decimals: of the shown numbers; None for numbers that need an exponent.
    """

    name: str
    unit: str = ""
    factor: float = 1.0
    decimals: int | None = 4

    @property
    def label(self) -> str:
        """The name with the unit."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name

    def text(self, value: float | None) -> str:
        """A number in this unit, without naming it; empty for None.

        >>> Quantity("latency", "ms", 1e-3, 2).text(0.00123)
        '1.23'
        """
        if value is None:
            return ""
        shown = value / self.factor
        if not math.isfinite(shown):
            return "NaN" if math.isnan(shown) else "inf" if shown > 0 else "-inf"
        return f"{shown:.3e}" if self.decimals is None else f"{shown:.{self.decimals}f}"

    def with_unit(self, value: float | None) -> str:
        """A number with its unit."""
        return f"{self.text(value)} {self.unit}".rstrip()


def quantity(name: str, values: Iterable[float]) -> Quantity:
    """The unit and the digits that suit all values of a metric: the largest unit that half of them reach.

    >>> quantity("latency", [0.0012, 0.0051])
    Quantity(name='latency', unit='ms', factor=0.001, decimals=3)
    >>> quantity("accuracy", [0.91, 0.97]).text(0.97)
    '0.9700'
    """
    sizes = [abs(value) for value in values if math.isfinite(value) and value]
    if not sizes:
        return Quantity(name)
    units = STEPS[DEFINITIONS[name].unit] if name in DEFINITIONS else _PLAIN
    factor, unit = next((pair for pair in units if pair[0] <= median(sizes)), units[-1])
    largest, smallest = max(sizes) / factor, min(sizes) / factor
    if largest >= 1e7 or largest < 1e-3 or (not unit and largest / smallest > 1e7):
        return Quantity(name, unit, factor, None)
    whole = name in ("parameters", "macs", "file_size", "peak_memory") and factor == 1.0
    return Quantity(name, unit, factor, 0 if whole else min(4, max(0, 3 - math.floor(math.log10(largest)))))


def duration(seconds: float) -> str:
    """A length of time for people.

    >>> duration(3.26), duration(754.0), duration(90000.0)
    ('3.3 s', '12 min 34 s', '25 h 0 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
