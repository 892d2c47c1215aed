"""What a user's functions return, read: the metrics of an evaluation by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdhooks.config.search_settings import MEASURED
from kdhooks.errors import UsageError
from kdhooks.names import did_you_mean


def metrics_of(result: Any, names: Sequence[str], function: str = "eval_func") -> dict[str, float]:
    """The numbers that an evaluation returned, by name.

    Args:
        result: a number, several numbers in the order of `names` (those of `MEASURED` may be left out together), or a
            mapping of numbers by name, which may have others as well. Scalars of a framework are numbers.
        names: the metrics of the search.
        function: what returned it, for messages.

    Raises:
        UsageError: another number of numbers, a name that is missing, or something that is no number.

    >>> metrics_of([0.9, 0.01], ["accuracy", "latency"])
    {'accuracy': 0.9, 'latency': 0.01}
    >>> metrics_of(0.9, ["accuracy", "latency"])
    {'accuracy': 0.9}
    """
    ours = [name for name in names if name not in MEASURED]  # which we can't measure in the function's place
    if isinstance(result, Mapping):
        found = {str(name): _number(value, function, f"for {name}") for name, value in result.items()}
        missing = next((name for name in ours if name not in found), None)
        if missing is not None:
            near = did_you_mean(missing, list(found), what="It returned") if found else "It returned an empty mapping."
            raise UsageError(f"{function} returned no {missing!r}. {near}")
        return found
    numbers = _numbers(result, function)
    for expected in (list(names), ours):
        if len(numbers) == len(expected):
            return dict(zip(expected, numbers, strict=True))
    raise UsageError(f"{function} returned {_count(numbers)} for {_metrics(names)}: {', '.join(names)}")


def not_finite(metrics: Mapping[str, float], names: Sequence[str]) -> str | None:
    """What is wrong with the first metric of the search that is no usable number, or None.

    >>> not_finite({"accuracy": float("nan")}, ["accuracy"])
    'accuracy is NaN'
    """
    for name in names:
        value = metrics[name]
        if not math.isfinite(value):
            return f"{name} is {'NaN' if math.isnan(value) else 'infinite'}"
    return None


def _numbers(result: Any, function: str) -> list[float]:
    """One or more numbers, from whatever holds them."""
    try:
        return [_as_float(result)]
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor with more than one number
        pass
    if result is None:
        raise UsageError(f"{function} returned nothing: {_FORMS}")
    try:
        several = [] if isinstance(result, (str, bytes)) else list(result)
    except TypeError:
        several = []
    if not several:
        raise UsageError(f"{function} returned {result!r:.80}: {_FORMS}")
    return [_number(value, function, f"in place {place}") for place, value in enumerate(several)]


_FORMS = "it must return a number, a list of numbers in the order of metrics, or a mapping of numbers by name"


def _number(value: Any, function: str, where: str) -> float:
    try:
        return _as_float(value)
    except (TypeError, ValueError, RuntimeError):
        raise UsageError(f"{function} returned no number {where}, but {value!r:.80}") from None


def _as_float(value: Any) -> float:
    """A number or a scalar tensor; some frameworks warn where a tensor still has its graph."""
    if isinstance(value, (str, bytes)):
        raise TypeError
    return float(value.detach() if hasattr(value, "detach") else value)


def _count(numbers: Sequence[float]) -> str:
    return "1 number" if len(numbers) == 1 else f"{len(numbers)} numbers"


def _metrics(names: Sequence[str]) -> str:
    return "1 metric" if len(names) == 1 else f"{len(names)} metrics"
