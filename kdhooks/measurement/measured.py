"""A measured number, its spread, and how a person reads it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdhooks.measurement.definitions import DEFINITIONS

STEPS = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")),
    "rows/s": ((1e6, "M rows/s"), (1e3, "k rows/s"), (1.0, "rows/s")),
    "MACs": ((1e12, "TMACs"), (1e9, "GMACs"), (1e6, "MMACs"), (1e3, "kMACs"), (1.0, "MACs")),
    "B": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "": ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")),
}
"""What numbers of a unit are divided by where they are large or small, and what they are called then."""


@dataclass(frozen=True)
class Measured:
    """A number that was measured.

    Attributes:
        value: the median of what was measured repeatedly, or the number itself.
        low: the first quartile; the value itself where there is nothing to repeat.
        high: the third quartile; likewise.
    """

    value: float
    low: float
    high: float

    @classmethod
    def exact(cls, value: float) -> Measured:
        """A number that is the same whenever it is measured."""
        return cls(value, value, value)

    @classmethod
    def of(cls, samples: Sequence[float]) -> Measured:
        """Median and quartiles of at least one sample, between neighbours where they fall so.

        >>> Measured.of([4.0, 1.0, 2.0, 3.0, 90.0])
        Measured(value=3.0, low=2.0, high=4.0)
        """
        low, value, high = (float(one) for one in np.quantile(np.asarray(samples, float), [0.25, 0.5, 0.75]))
        return cls(value, low, high)

    def rate(self, count: int) -> Measured:
        """How many of `count` things a second, where this is the time that they take together.

        >>> Measured(0.5, 0.4, 0.8).rate(4)
        Measured(value=8.0, low=5.0, high=10.0)
        """
        return Measured(*(count / seconds if seconds else math.inf for seconds in (self.value, self.high, self.low)))


def shown(name: str, value: float | Measured) -> str:
    """A metric's value with its unit, three digits; what has a spread is shown with it. A kilobyte is 1000 bytes.

    >>> shown("latency", 0.0052), shown("parameters", 1_300_000), shown("file_size", 4.8e6)
    ('5.2 ms', '1.3 M', '4.8 MB')
    >>> shown("throughput", 512), shown("macs", 1.2e9), shown("accuracy", 0.9137)
    ('512 rows/s', '1.2 GMACs', '0.9137')
    >>> shown("latency", Measured(0.0052, 0.00513, 0.0056))
    '5.2 ms (5.13 to 5.6)'
    """
    measured = value if isinstance(value, Measured) else Measured.exact(value)
    if name not in DEFINITIONS or not math.isfinite(measured.value):
        return f"{measured.value:.6g}"
    steps = STEPS[DEFINITIONS[name].unit]
    # what rounds to a thousand has the next unit
    factor, unit = next((step for step in steps if abs(measured.value) >= 0.9995 * step[0]), steps[-1])
    text = f"{_digits(measured.value / factor)} {unit}".rstrip()
    if measured.low == measured.high:
        return text
    return f"{text} ({_digits(measured.low / factor)} to {_digits(measured.high / factor)})"


def _digits(number: float) -> str:
    """At least three significant digits, and all of those before the point."""
    if abs(number) >= 100:
        return f"{number:.0f}"
    return f"{number:.3g}"
