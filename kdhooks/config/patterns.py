"""Mappings that are written with keys: patterns for repeated blocks, and pairs of several layers a side.

An expression of a pattern is arithmetic on whole numbers and nothing else; no code of a configuration is ever run.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kdhooks.config.expressions import Expression, Wrong
from kdhooks.config.layer_taps import LayerPair, LayerTap, layer_tap
from kdhooks.errors import shown

CALLS = ("last", "first", "all", "mean")
"""What counts of a layer that is called several times in a forward."""

MOST = 4096
"""Pairs that all mappings together may stand for."""

Settings = Iterable[Mapping[str, int]]
"""The numbers of the variables, by name."""

_RANGE = re.compile(r"\s*(-?[0-9]{1,6})\s*\.\.\s*(-?[0-9]{1,6})\s*")
_BRACES = re.compile(r"\{([^{}]*)\}")


_ONE = ("student", "teacher")
_SEVERAL = ("student_layers", "teacher_layers")
_EXAMPLES = {_ONE: "{student: fc, teacher: fc}", _SEVERAL: "{student_layers: [a, b], teacher_layers: [c, d]}"}

Sides = tuple[Sequence[LayerTap], Sequence[LayerTap]]


def written_with_keys(entry: Mapping[Any, Any], index: int, path: str) -> Iterator[LayerPair]:
    """The pairs of an entry such as ``{student: ..., teacher: ...}``.

    Raises:
        Wrong: the first thing that is wrong with it.
    """
    keys = _SEVERAL if any(key in _SEVERAL for key in entry) else _ONE
    names = _variables(entry, keys, path)
    calls = entry.get("calls", "last")
    if calls not in CALLS:
        raise Wrong(f"{path}.calls", f"expected one of {', '.join(CALLS)}, got {shown(calls)}")
    ranges = [_range(entry[name], f"{path}.{name}") for name in names]
    settings = (dict(zip(names, numbers, strict=True)) for numbers in itertools.product(*ranges))
    used: set[str] = set()
    sides = _one_each(entry, path, settings, used) if keys is _ONE else _several_each(entry, path, settings, used)
    found = []
    for mine, theirs in itertools.islice(sides, MOST + 1):
        found.append(LayerPair(mine[0], theirs[0], calls, index, path, tuple(mine[1:]), tuple(theirs[1:])))
    for name in names:
        if name not in used:
            raise Wrong(f"{path}.{name}", f"no {{{name}}} stands in {keys[0]} or {keys[1]}", of_key=True)
    return iter(found)


def _variables(entry: Mapping[Any, Any], keys: tuple[str, str], path: str) -> list[str]:
    """The keys that are variables of a pattern; both sides must be there, of one kind."""
    for key in entry:
        if not isinstance(key, str) or not key.isidentifier():
            raise Wrong(f"{path}.{key}", "expected student, teacher, calls or the name of a variable", of_key=True)
    for key in _ONE if keys is _SEVERAL else ():
        if key in entry:
            message = "stands beside a list of layers, and only one of them can be meant"
            raise Wrong(f"{path}.{key}", message, f"Write {key}_layers, or student and teacher.", of_key=True)
    for key in keys:
        if key not in entry:
            raise Wrong(path, f"has no {key}", f"Write {keys[0]} and {keys[1]}, as in {_EXAMPLES[keys]}")
    return [key for key in entry if key not in (*keys, "calls")]


def _one_each(entry: Mapping[Any, Any], path: str, settings: Settings, used: set[str]) -> Iterator[Sides]:
    """A pair for each setting of the variables."""
    student, teacher = (layer_tap(entry[key], f"{path}.{key}") for key in _ONE)
    for values in settings:
        yield [_expanded(student, values, used)], [_expanded(teacher, values, used)]


def _several_each(entry: Mapping[Any, Any], path: str, settings: Settings, used: set[str]) -> Iterator[Sides]:
    """With lists a pair for each setting of the variables; with two texts one pair of the layers of all settings."""
    lists = [_layers(entry[key], f"{path}.{key}") for key in _SEVERAL]
    texts = [isinstance(entry[key], str) for key in _SEVERAL]
    expanded = ([[_expanded(tap, values, used) for tap in taps] for taps in lists] for values in settings)
    if not any(texts):
        yield from ((mine, theirs) for mine, theirs in expanded)
        return
    if not all(texts) and len(entry.keys() - {*_SEVERAL, "calls"}):
        message = "one side is a list and the other a text, so the variables could mean one pair or several"
        raise Wrong(path, message, "Write both as lists (a pair for each value), or both as texts (one pair).")
    all_values = list(itertools.islice(expanded, MOST))
    mine, theirs = ([tap for sides in all_values for tap in sides[side]] for side in (0, 1))
    yield mine, theirs


def _layers(value: Any, path: str) -> list[LayerTap]:
    """The layers of one side: a list of layers and ``[layer, selector]``, or one text."""
    if isinstance(value, str):
        return [layer_tap(value, path)]
    if not isinstance(value, Sequence) or not value:
        got = "none" if isinstance(value, Sequence) else shown(value)
        raise Wrong(path, f"expected a list of layers, each a name or [layer, selector], got {got}")
    return [layer_tap(item, f"{path}[{position}]") for position, item in enumerate(value)]


def _range(value: Any, path: str) -> Sequence[int]:
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, str) and (ends := _RANGE.fullmatch(value)):
        first, last = int(ends[1]), int(ends[2])
        if first > last or last - first >= MOST:
            raise Wrong(path, f"the range {value} has {'no number' if first > last else f'more than {MOST} numbers'}")
        return range(first, last + 1)
    if isinstance(value, Sequence) and not isinstance(value, str) and value:
        for position, item in enumerate(value):
            if not isinstance(item, int) or isinstance(item, bool):
                raise Wrong(f"{path}[{position}]", f"expected a whole number, got {shown(item)}")
        return list(value)
    raise Wrong(path, f"expected a range as in 0..5 (both ends count) or a list of whole numbers, got {shown(value)}")


def _expanded(tap: LayerTap, values: Mapping[str, int], used: set[str]) -> LayerTap:
    layer = _filled(tap.layer, values, used, tap.path)
    selector = tap.selector
    if isinstance(selector, str):
        selector = _filled(selector, values, used, tap.path)
    return LayerTap(layer, selector, tap.input, tap.path)


def _filled(text: str, values: Mapping[str, int], used: set[str], path: str) -> str:
    def fill(match: re.Match[str]) -> str:
        return str(Expression(match[1], values, used, path).value())

    filled = _BRACES.sub(fill, text)
    if "{" in filled or "}" in filled:
        raise Wrong(path, f"a brace in {text!r} has no partner")
    return filled
