"""Arithmetic between parameters of an architecture: ``hidden_size % num_attention_heads == 0``.

How a text is read, and that it can run nothing: `arithmetic`. Unlike `expressions`, which counts layers, this one
knows numbers with a point and divides with ``/``.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from kdhooks.config.arithmetic import ArithmeticReader
from kdhooks.errors import KDHooksError, UsageError, shown

NUMBER = r"(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
"""How a number is written: 64, 10_000, 0.5, 10e6."""

_NEAR = 1e-9
"""Numbers with a point that differ by less, relative to the larger one, are taken as equal."""

Number = int | float
_Node = Callable[[Mapping[str, Any]], Number]


class FormulaError(KDHooksError):
    """A text that is no arithmetic.

    Attributes:
        message: what is wrong, in one sentence without a full stop.
    """

    def __init__(self, message: str) -> None:
        self.message = message
        super().__init__(message)


@dataclass(frozen=True)
class Formula:
    """Arithmetic over names and numbers: ``+ - * / // %`` and brackets.

    Attributes:
        text: as it was written.
        names: of the parameters that are in it, in their order.
    """

    text: str
    names: tuple[str, ...]
    node: _Node = field(repr=False, compare=False)

    def value(self, values: Mapping[str, Any]) -> Number:
        """The number for these parameters.

        Raises:
            UsageError: a parameter's value is no number.
            ZeroDivisionError: it divides by zero.
            OverflowError: the number is too large.
        """
        for name in self.names:
            value = values[name]
            if isinstance(value, bool) or not isinstance(value, (int, float)):
                raise UsageError(f"{self.text!r} computes with {name}, whose value is {shown(value)} and no number")
        return self.node(values)


@lru_cache(maxsize=256)
def formula(text: str) -> Formula:
    """The formula of a text.

    Raises:
        FormulaError: it can't be read.

    >>> formula("hidden / (2 * heads)").value({"hidden": 96, "heads": 4})
    12.0
    """
    return _Reader(text).formula()


def compared(left: Number, comparison: str, right: Number) -> bool:
    """Whether a comparison holds; numbers with a point are equal where they are nearly so.

    >>> compared(3 * 0.1, "==", 0.3), compared(3 * 0.1, "<=", 0.3), compared(3, "<", 3)
    (True, True, False)
    """
    equal = left == right
    if isinstance(left, float) or isinstance(right, float):
        equal = math.isclose(left, right, rel_tol=_NEAR, abs_tol=1e-12)
    less = not equal and left < right
    more = not equal and left > right
    return {"==": equal, "!=": not equal, "<=": less or equal, ">=": more or equal, "<": less, ">": more}[comparison]


def remainder(left: Number, right: Number) -> Number:
    """``left % right``; 0 where numbers with a point divide but for rounding."""
    found = left % right
    if isinstance(found, float) and math.isclose(found, right, rel_tol=_NEAR):
        return 0.0
    return 0.0 if isinstance(found, float) and abs(found) < _NEAR * abs(right) else found


_BINARY: dict[str, Callable[[Number, Number], Number]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": remainder,
}


class _Reader(ArithmeticReader[_Node]):
    """Reads one text."""

    token = re.compile(rf"\s*(?:({NUMBER})|([A-Za-z_][A-Za-z0-9_.]*)|(//|[-+*/%()]))")
    allowed = "numbers, parameters, + - * / // % and brackets"
    products = ("*", "/", "//", "%")

    def __init__(self, text: str) -> None:
        self._names = dict[str, None]()
        super().__init__(text)

    def formula(self) -> Formula:
        node = self._whole()
        return Formula(self._text, tuple(self._names), node)

    def _operand(self, token: str) -> _Node | None:
        if token[0].isalpha() or token[0] == "_":
            self._names[token] = None
            return lambda values: values[token]
        number = number_of(token)
        return None if number is None else lambda values: number

    def _combined(self, sign: str, left: _Node, right: _Node) -> _Node:
        return lambda values: _BINARY[sign](left(values), right(values))

    def _negative(self, value: _Node) -> _Node:
        return lambda values: 0 - value(values)

    def _wrong(self, message: str, suggestion: str = "") -> FormulaError:
        return FormulaError(f"in {self._text!r}: {message}")


def number_of(text: str) -> Number | None:
    """The finite number that a text is, or None; a whole one where it is written so."""
    if not re.fullmatch(NUMBER, text) or len(text) > 40:
        return None
    digits = text.replace("_", "")
    found = int(digits) if digits.isdecimal() else float(digits)
    return found if math.isfinite(found) else None
