"""The rule of a search space: choices and ranges by name, and conditions between them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdhooks.config import laws
from kdhooks.config import leaves as a
from kdhooks.config.rules import Report, any_broken
from kdhooks.config.search_settings import Choices, Dimension, Range, When
from kdhooks.config.sections import Key, Law, Section
from kdhooks.config.source import BROKEN, join
from kdhooks.errors import shown
from kdhooks.names import did_you_mean

_FORMS = "a list of values, {low: ..., high: ...} or {choices: [...]}"
_COUNTABLE = 2.0**53  # steps; beyond, a number doesn't change by one
_NEAR = 1e-9  # of a step, by which a number may miss it: 0.1 has no exact spelling


def same(one: Any, other: Any) -> bool:
    """Whether two values of a parameter are one: 1 and 1.0 are, 1 and true are not."""
    return isinstance(one, bool) == isinstance(other, bool) and bool(one == other)


def can_be(dimension: Dimension, value: Any) -> bool:
    """Whether a parameter can have this value.

    >>> can_be(Range("layers", 2, 12, step=2), 4), can_be(Range("layers", 2, 12, step=2), 5)
    (True, False)
    """
    if isinstance(dimension, Choices):
        return any(same(value, choice) for choice in dimension.values)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    if not dimension.low <= value <= dimension.high:
        return False
    step = dimension.step or (1 if dimension.integer else None)
    return step is None or _steps(value - dimension.low, step) is not None


def _steps(distance: float, step: float) -> int | None:
    """How many steps a distance has, or None where it is between two, or where they can't be counted."""
    if not distance / step < _COUNTABLE:
        return None
    steps = round(distance / step)
    return steps if math.isclose(steps * step, distance, rel_tol=_NEAR, abs_tol=_NEAR * step) else None


@dataclass(frozen=True)
class Values:
    """The values of a parameter, or those that a condition asks for: a list, or one alone."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """A tuple of different values."""
        several = isinstance(value, Sequence) and not isinstance(value, str)
        if several and not len(value):
            return report.add(path, "has no value", "Write at least one, as in [128, 256]")
        items = list(value) if several else [value]
        paths = [f"{path}[{index}]" if several else path for index in range(len(items))]
        found = [self._one(item, where, report) for item, where in zip(items, paths, strict=True)]
        for index, item in enumerate(found):
            if item is not BROKEN and any(same(item, before) for before in found[:index]):
                found[index] = report.add(paths[index], f"{_spelled(item)} is given twice", "Keep one of them.")
        return BROKEN if any_broken(found) else tuple(found)

    def _one(self, value: Any, path: str, report: Report) -> Any:
        if value is BROKEN or value is None or isinstance(value, (bool, int, str)):
            return value
        if isinstance(value, float) and math.isfinite(value):
            return value
        nested = isinstance(value, (Mapping, Sequence))
        advice = "Name it by a text, and let the model builder look up what it stands for." if nested else ""
        return report.expected(path, "a number, text, true, false or null", value, advice)


def _spelled(value: object) -> str:
    return "null" if value is None else shown(value)


@dataclass(frozen=True)
class _Conditions:
    """``when``: values of other parameters, by name."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """A tuple of `When`."""
        if value is None:
            return ()
        if not isinstance(value, Mapping):
            return report.expected(path, "values by the names of other parameters, as in {block: conv}", value)
        found = {name: Values().check(item, join(path, name), report) for name, item in value.items()}
        for name in [name for name in found if not isinstance(name, str)]:
            advice = f"Put it in quotes: '{name}'"
            found[name] = report.add(join(path, name), "the name of a parameter must be text", advice, of_key=True)
        return BROKEN if any_broken(found.values()) else tuple(When(name, values) for name, values in found.items())


def _one_kind(values: Mapping[str, Any], path: str, report: Report) -> None:
    """Either choices, or low and high."""
    given = [key for key in ("low", "high", "step", "log") if values.get(key) is not None]
    if values.get("choices") is not None:
        if given:
            message = f"stands beside {given[0]}, and only one of them can be meant"
            report.add(join(path, "choices"), message, "Write choices, or low and high.", of_key=True)
    elif not given:
        report.add(path, "has no values", f"Write {_FORMS}", of_key=True)
    else:
        missing = [key for key in ("low", "high") if key not in given]
        if missing:
            report.add(path, f"has no {missing[0]}", f"Write {missing[0]}, which is among its values.", of_key=True)


def _range(values: Mapping[str, Any], path: str, report: Report) -> None:
    """A range that has two values at least, which its step meets."""
    low, high, step = values.get("low"), values.get("high"), values.get("step")
    if low is None or high is None:
        return
    if low >= high:
        message = f"is {low}, which is not below high, {high}"
        report.add(join(path, "low"), message, "Write a low below high, or the one value alone.")
    elif values.get("log") and low <= 0:
        report.add(join(path, "low"), f"is {low}, and a logarithm needs a number above 0", "Remove log, or raise low.")
    elif values.get("log") and step is not None:
        report.add(join(path, "step"), "stands beside log, which has no steps", "Keep one of them.", of_key=True)
    elif not math.isfinite(float(high) - float(low)):
        report.add(path, f"{low} to {high} is too wide", "Write a narrower range.", of_key=True)
    elif step is not None and not (high - low) / step < _COUNTABLE:
        message = f"is {step}, which makes too many values from {low} to {high}"
        report.add(join(path, "step"), message, "Write a larger step, or none.")
    elif step is not None and _steps(high - low, step) is None:
        whole = math.floor((high - low) / step)
        ends = [f"{low + count * step:g}" for count in (whole, whole + 1) if count]
        message = f"steps of {step} from {low} don't end at high, {high}"
        report.add(join(path, "step"), message, f"Write another step, or high: {' or '.join(ends)}")


DIMENSION = Section(
    (
        Key("choices", Values(), None, "the values"),
        Key("low", a.NUMBER, None, "the smallest value; all are whole numbers where low, high and step are"),
        Key("high", a.NUMBER, None, "the largest value, which is among them"),
        Key("step", a.STEP, None, "between neighbours; empty: 1 between whole numbers, else any number"),
        Key("log", a.BOOLEAN, False, "whether ratios count, not differences"),
        Key("when", _Conditions(), None, "values of earlier parameters, without which there is none of this one"),
    ),
    laws.without_empty,
    laws=(
        Law(("choices", "low", "high", "step", "log"), _one_kind),
        Law(("choices", "low", "high", "step", "log"), _range),
    ),
)
"""What may stand below the name of a parameter."""


@dataclass(frozen=True)
class SearchSpace:
    """Dimensions by the names of the parameters that a model builder gets."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """A tuple of dimensions, in the order of the file."""
        example = "parameters with their values, as in hidden_size: [128, 256]"
        if not isinstance(value, Mapping) and value is not None:
            return report.expected(path, example, value)
        if not value:
            return report.add(path, "is empty, so there is nothing to search", f"Write {example}")
        found = {str(name): self._dimension(name, item, join(path, name), report) for name, item in value.items()}
        for index, (name, dimension) in enumerate(found.items()):
            if dimension is not BROKEN and dimension.when:
                earlier = dict(list(found.items())[:index])
                _check_conditions(dimension, value[name]["when"], found, earlier, report)
        return BROKEN if any_broken(found.values()) else tuple(found.values())

    def _dimension(self, name: object, value: Any, path: str, report: Report) -> Any:
        if not isinstance(name, str) or not name:
            return report.add(path, "the name of a parameter must be text", f"Put it in quotes: '{name}'", of_key=True)
        if not isinstance(value, Mapping):
            values = Values().check(value, path, report)
            return BROKEN if values is BROKEN else Choices(name, values, path=path)
        held = DIMENSION.check(value, path, report)
        return BROKEN if held is BROKEN else _built(name, held, path)


def _built(name: str, held: Mapping[str, Any], path: str) -> Any:
    when = held.get("when", ())
    if "choices" in held:
        return Choices(name, held["choices"], when, path)
    if "low" not in held or "high" not in held:
        return BROKEN  # a law has told
    low, high, step = held["low"], held["high"], held.get("step")
    integer = all(isinstance(number, int) for number in (low, high, step) if number is not None)
    if not integer:
        low, high, step = float(low), float(high), None if step is None else float(step)
    return Range(name, low, high, step, held.get("log", False), integer, when, path)


def _check_conditions(
    dimension: Dimension, given: Mapping[str, Any], known: Iterable[str], earlier: Mapping[str, Any], report: Report
) -> None:
    """Its conditions are about earlier dimensions, and values that these can have."""
    for when in dimension.when:
        where = join(f"{dimension.path}.when", when.name)
        if when.name not in earlier:
            report.add(where, *_not_earlier(when.name, dimension.name, known, earlier), of_key=True)
            continue
        other = earlier[when.name]
        alone = isinstance(given[when.name], str) or not isinstance(given[when.name], Sequence)
        for index, value in enumerate(when.values):
            if other is not BROKEN and not can_be(other, value):
                message = f"{when.name} is never {_spelled(value)}"
                report.add(where if alone else f"{where}[{index}]", message, f"Its values: {_values_of(other)}")


def _not_earlier(name: str, mine: str, known: Iterable[str], earlier: Iterable[str]) -> tuple[str, str]:
    """What is wrong with a condition on something that is not decided before, and what to do about it."""
    if name == mine:
        return f"{name} can't depend on itself", "Remove it."
    if name in known:
        return f"{name} stands below {mine}, so it is not decided yet", f"Move {name} above {mine}."
    near = did_you_mean(name, earlier, what="Parameters above") or "Remove it."
    return f"no parameter {name!r} stands above", near


def _values_of(dimension: Dimension) -> str:
    if isinstance(dimension, Choices):
        return ", ".join(map(_spelled, dimension.values))
    steps = "" if dimension.step is None else f" in steps of {dimension.step:g}"
    return f"{dimension.low:g} to {dimension.high:g}{steps}"
