"""One dimension of a search space: its values in order, and the codes that search algorithms see.

A dimension with an order becomes whole numbers, so that an algorithm knows neighbours; one without becomes
categories; a range of floats stays as it is.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, TypeGuard, overload

from kdhooks.config.search_settings import Choices, Dimension, Range


def same(value: object, other: object) -> bool:
    """Whether two values of a parameter are the same: 2 and 2.0 are, 1 and True are not.

    >>> same(2, 2.0), same(1, True)
    (True, False)
    """
    return bool(value == other) and isinstance(value, bool) == isinstance(other, bool)


class Axis:
    """A dimension with finitely many values.

    Attributes:
        name: of the parameter.
        values: in the order of the file; those of a range from low to high.
        ordered: whether neighbours are alike.
        logarithmic: whether the codes are the values themselves, of which ratios count.
    """

    continuous = False

    def __init__(self, dimension: Dimension) -> None:
        self.name, self.when = dimension.name, dimension.when
        self.logarithmic = isinstance(dimension, Range) and dimension.log
        self.ordered = isinstance(dimension, Range) or dimension.ordered
        self.values: Sequence[Any] = _values(dimension)
        by_size = self.ordered and isinstance(dimension, Choices)
        self._ranked: Sequence[Any] = sorted(self.values) if by_size else self.values

    def position(self, value: object) -> int:
        """Where a value stands among `values`.

        Raises:
            ValueError: it is none of them.
        """
        return _position(self.values, value)

    def encode(self, value: Any) -> int | float:
        """The code of a value: its rank, or itself on a logarithmic axis."""
        return int(value) if self.logarithmic else _position(self._ranked, value)

    def decode(self, code: float) -> Any:
        """The value of a code."""
        return int(code) if self.logarithmic else self._ranked[int(code)]

    def distribution(self) -> Any:
        """Optuna's distribution of the codes."""
        from optuna import distributions

        if self.logarithmic:
            return distributions.IntDistribution(self.values[0], self.values[-1], log=True)
        if self.ordered:
            return distributions.IntDistribution(0, len(self.values) - 1)
        return distributions.CategoricalDistribution(tuple(range(len(self.values))))

    def shown_distribution(self) -> Any:
        """Optuna's distribution of the values, for those who look at the study."""
        from optuna import distributions

        if isinstance(self.values, range):
            low, high = self.values[0], self.values[-1]
            return distributions.IntDistribution(low, high, log=self.logarithmic, step=self.values.step)
        if isinstance(self.values, _Steps):
            return distributions.FloatDistribution(self.values[0], self.values[-1], step=self.values.step)
        return distributions.CategoricalDistribution(tuple(self.values))

    def place(self, value: Any) -> float:
        """Where a value stands between the first, 0, and the last, 1; for axes with an order."""
        if self.logarithmic:
            return _share(math.log(self.values[0]), math.log(self.values[-1]), math.log(value))
        return self.encode(value) / max(1, len(self.values) - 1)

    def nearest(self, place: float) -> Any:
        """The value nearest to a place between 0 and 1; for axes with an order."""
        place = min(1.0, max(0.0, place))
        if self.logarithmic:
            return round(_log_between(self.values[0], self.values[-1], place))
        return self._ranked[round(place * (len(self.values) - 1))]

    def draw(self, generator: random.Random) -> Any:
        """One of the values, all equally likely; on a logarithmic axis ratios are."""
        if self.logarithmic:
            return self.nearest(generator.random())
        return self.values[generator.randrange(len(self.values))]


class Interval(Axis):
    """A dimension of all numbers between two."""

    continuous = True

    def __init__(self, dimension: Range) -> None:
        self.name, self.when, self.ordered = dimension.name, dimension.when, True
        self.logarithmic = dimension.log
        self.low, self.high = float(dimension.low), float(dimension.high)
        self.values = (self.low, self.high)

    def position(self, value: object) -> int:
        """0 for a number between low and high; ValueError for anything else."""
        if not _is_number(value) or not self.low <= value <= self.high:
            raise ValueError(value)
        return 0

    def encode(self, value: Any) -> float:
        """The value itself."""
        return float(value)

    def decode(self, code: float) -> float:
        """The value itself."""
        return float(code)

    def distribution(self) -> Any:
        """Optuna's distribution of the values."""
        from optuna import distributions

        return distributions.FloatDistribution(self.low, self.high, log=self.logarithmic)

    shown_distribution = distribution

    def place(self, value: Any) -> float:
        """Where a value stands between low, 0, and high, 1; in logarithms on a logarithmic axis."""
        if self.logarithmic:
            return _share(math.log(self.low), math.log(self.high), math.log(value))
        return _share(self.low, self.high, value)

    def nearest(self, place: float) -> float:
        """The number at a place between 0 and 1."""
        place = min(1.0, max(0.0, place))
        between = _log_between if self.logarithmic else _between
        return min(self.high, max(self.low, between(self.low, self.high, place)))

    def draw(self, generator: random.Random) -> float:
        """A number between low and high."""
        return self.nearest(generator.random())


def axis(dimension: Dimension) -> Axis:
    """The axis of a dimension."""
    if isinstance(dimension, Range) and not dimension.integer and dimension.step is None:
        return Interval(dimension)
    return Axis(dimension)


class _Steps(Sequence[float]):
    """Numbers at equal distances, as a person would write them: 0.3 and not 0.30000000000000004."""

    def __init__(self, low: float, high: float, step: float) -> None:
        self.step = step
        self._low, self._step = Decimal(str(low)), Decimal(str(step))
        self._count = int((Decimal(str(high)) - self._low) / self._step) + 1

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, index: int) -> float: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[float]: ...

    def __getitem__(self, index: int | slice) -> float | Sequence[float]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        return float(self._low + (index % self._count) * self._step)

    def index(self, value: Any, start: int = 0, stop: int | None = None) -> int:
        near = round((Decimal(str(float(value))) - self._low) / self._step)
        if 0 <= near < self._count and math.isclose(self[near], value, rel_tol=1e-9, abs_tol=1e-12):
            return near
        raise ValueError(value)


def _values(dimension: Dimension) -> Sequence[Any]:
    if isinstance(dimension, Choices):
        return tuple(dimension.values)
    if dimension.integer:
        return range(int(dimension.low), int(dimension.high) + 1, int(dimension.step or 1))
    return _Steps(dimension.low, dimension.high, dimension.step or 1)


def _position(values: Sequence[Any], value: object) -> int:
    if isinstance(values, (range, _Steps)):
        if not _is_number(value) or value != value or (isinstance(values, range) and value % 1):
            raise ValueError(value)
        return values.index(int(value)) if isinstance(values, range) else values.index(value)
    for place, known in enumerate(values):
        if same(known, value):
            return place
    raise ValueError(value)


def _is_number(value: object) -> TypeGuard[float]:
    """Whether it is a number, also one of NumPy's."""
    return isinstance(value, Real) and not isinstance(value, bool)


def _share(low: float, high: float, value: float) -> float:
    return (value - low) / (high - low) if high > low else 0.0


def _between(low: float, high: float, place: float) -> float:
    return low + place * (high - low)


def _log_between(low: float, high: float, place: float) -> float:
    return math.exp(_between(math.log(low), math.log(high), place))
