"""Constraints of a search: limits on metrics with their units, and relations between parameters."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdhooks.config.expressions import Wrong
from kdhooks.config.formulas import NUMBER, FormulaError, formula, number_of
from kdhooks.config.rules import Report
from kdhooks.config.search_settings import MEASURED, Choices, Dimension, Limit, Relation
from kdhooks.names import closest, did_you_mean, fold

_TIME: Mapping[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6}
_COUNT: Mapping[str, float] = {"K": 1e3, "M": 1e6, "G": 1e9}
_BYTES: Mapping[str, float] = {
    **{"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9},
    **{"KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
}
UNITS: Mapping[str, Mapping[str, float]] = {
    "latency": _TIME,
    "throughput": _COUNT,
    "parameters": _COUNT,
    "macs": _COUNT,
    "file_size": _BYTES,
    "peak_memory": _BYTES,
}
"""What a unit stands for in the metric's own; a plain number is in that. Other metrics know ``%``."""

_COMPARISON = re.compile(r"<=|>=|==|!=|=<|=>|<|>|=|≤|≥")
_MEANT = {"≤": "<=", "≥": ">=", "=<": "<=", "=>": ">="}
_MIRRORED = {"<=": ">=", ">=": "<=", "<": ">", ">": "<", "==": "==", "!=": "!="}
_QUANTITY = re.compile(rf"\s*([-+]?{NUMBER})\s*([^\W\d]\w*|%)?\s*")
_NAME = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.]*)\s*")
_EXAMPLE = "latency <= 5 ms"


@dataclass(frozen=True)
class Written:
    """A constraint as it was written, and where."""

    text: str
    path: str


@dataclass(frozen=True)
class ConstraintText:
    """The text of a constraint; what it means depends on the metrics and the space."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """A `Written`."""
        if isinstance(value, str) and value.strip():
            return Written(value, path)
        return report.expected(path, f"a constraint as in {_EXAMPLE!r}", value)


def measured_name(name: str) -> str:
    """The name of a metric; of a measured one as `MEASURED` spells it.

    >>> measured_name("File size"), measured_name("my score")
    ('file_size', 'my score')
    """
    return next((known for known in MEASURED if fold(known) == fold(name)), name)


def constraint(written: Written, metrics: Sequence[str], space: Mapping[str, Dimension] | None) -> Limit | Relation:
    """What a constraint means.

    Args:
        written: the text.
        metrics: those that are searched for.
        space: the parameters by name; None where the configuration doesn't have the space, so that any may exist.

    Raises:
        Wrong: it can't be read, or names something that is not there.
    """
    left, comparison, right = _compared(written)
    known = (*MEASURED, *metrics)
    for side, other, sign in ((left, right, comparison), (right, left, _MIRRORED[comparison])):
        metric = next((name for name in known if fold(name) == fold(side)), None)
        if metric is not None and side not in (space or {}):
            return _limit(metric, sign, other, written)
        if _QUANTITY.fullmatch(other) and _NAME.fullmatch(side):
            _must_be_parameter(side, other, written, known, space)
    return _relation(left, comparison, right, written, metrics, space)


def _compared(written: Written) -> tuple[str, str, str]:
    """Both sides, and the comparison between them."""
    signs = _COMPARISON.findall(written.text)
    if len(signs) != 1:
        what = "compares twice" if signs else "compares nothing"
        advice = "Write one constraint for each comparison." if signs else f"Write one comparison, as in {_EXAMPLE}"
        raise Wrong(written.path, f"{written.text!r} {what}", advice)
    left, right = (side.strip() for side in written.text.split(signs[0]))
    sign = _MEANT.get(signs[0], signs[0])
    if sign == "=":
        raise Wrong(written.path, f"{written.text!r} has a single '='", f"Write {left} == {right}")
    if not left or not right:
        raise Wrong(written.path, f"{written.text!r} has an empty side", f"Write both sides, as in {_EXAMPLE}")
    return left, sign, right


def _limit(metric: str, sign: str, quantity: str, written: Written) -> Limit:
    found = _QUANTITY.fullmatch(quantity)
    number = number_of(found[1].lstrip("-+")) if found else None
    if found is None or number is None:
        message = f"{quantity!r} is no number, and {metric} is a metric"
        raise Wrong(written.path, message, f"Write a number, as in {_example(metric)}")
    if sign in ("==", "!="):
        message = f"a metric is limited by <= or >=, not by {sign}"
        raise Wrong(written.path, message, f"Write {_example(metric)}")
    bound = number * (-1 if found[1][0] == "-" else 1) * _factor(metric, found[2], written)
    at_most = sign in ("<=", "<")
    if metric in MEASURED and at_most and bound <= 0:
        raise Wrong(written.path, f"no model has a {metric} {sign} {bound:g}", "Write a number above 0.")
    if sign in ("<", ">"):  # the nearest number that keeps it
        bound = math.nextafter(bound, -math.inf if at_most else math.inf)
    return Limit(metric, at_most, float(bound), written.text, written.path)


def _factor(metric: str, unit: str | None, written: Written) -> float:
    """What the unit stands for in the metric's own."""
    if unit is None:
        return 1.0
    units = UNITS.get(metric, {"%": 0.01})
    found = next((word for word in units if unit in (word, word.replace("µ", "\u03bc"))), None)
    found = found or next((word for word in units if word.casefold() == unit.casefold()), None)
    if found is None:
        message = f"{unit!r} is no unit of {metric}"
        raise Wrong(written.path, message, f"Units: {', '.join(units)}, or a plain number")
    return units[found]


def _example(metric: str) -> str:
    examples = {
        **{"latency": "latency <= 5 ms", "throughput": "throughput >= 100", "parameters": "parameters <= 10e6"},
        **{"macs": "macs <= 500 M", "file_size": "file_size <= 20 MB", "peak_memory": "peak_memory <= 1 GB"},
    }
    return examples.get(metric, f"{metric} >= 0.9")


def _must_be_parameter(
    name: str, quantity: str, written: Written, metrics: Sequence[str], space: Mapping[str, Dimension] | None
) -> None:
    """A name that is compared with a number is a metric, or a parameter, which has no unit."""
    unit = _unit(quantity)
    if space is not None and name in space:
        if unit:
            message = f"{name} is a parameter of the search space, which has no unit"
            raise Wrong(written.path, message, f"Write the number without {unit}")
    elif space is not None:
        raise _unknown(name, written, metrics, space)
    elif unit:
        near = did_you_mean(name, metrics, what="Metrics")
        raise Wrong(written.path, f"unknown metric {name!r}", near)


def _unit(quantity: str) -> str:
    found = _QUANTITY.fullmatch(quantity)
    return (found[2] or "") if found else ""


def _unknown(name: str, written: Written, metrics: Sequence[str], space: Mapping[str, Dimension]) -> Wrong:
    near = closest(name, [*metrics, *space])
    advice = f"Did you mean {near!r}?" if near else f"Metrics: {', '.join(metrics)}. Parameters: {', '.join(space)}"
    return Wrong(written.path, f"{name!r} is neither a metric nor a parameter of the search space", advice)


def _relation(
    left: str,
    comparison: str,
    right: str,
    written: Written,
    metrics: Sequence[str],
    space: Mapping[str, Dimension] | None,
) -> Relation:
    relation = Relation(left, comparison, right, written.text, written.path)
    try:
        names = (*formula(left).names, *formula(right).names)
    except FormulaError as error:
        raise Wrong(written.path, error.message, f"Write it as in {_EXAMPLE}, or hidden_size % heads == 0") from None
    if not names:
        raise Wrong(
            written.path, f"{written.text!r} names neither a metric nor a parameter", f"Write one, as in {_EXAMPLE}"
        )
    for name in names:
        metric = next((known for known in (*MEASURED, *metrics) if fold(known) == fold(name)), None)
        if space is not None and name in space:
            if not _is_numeric(space[name]):
                message = f"{name} has values that are no numbers, so nothing can be computed with it"
                raise Wrong(written.path, message, "Use when below a parameter for what depends on a choice.")
        elif metric is not None:
            message = f"the metric {metric} stands in a formula, and a limit has it alone on one side"
            raise Wrong(written.path, message, f"Write {_example(metric)}")
        elif space is not None:
            raise _unknown(name, written, (*MEASURED, *metrics), space)
    return relation


def _is_numeric(dimension: Dimension) -> bool:
    return not isinstance(dimension, Choices) or dimension.ordered
