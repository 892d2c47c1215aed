"""Arithmetic between parameters of an architecture: ``hidden_size % num_attention_heads == 0``.

A text of a configuration is read here by hand and never handed to Python, so it can run nothing. Unlike
`expressions`, which counts layers, this one knows numbers with a point and divides with ``/``.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from kdhooks.errors import KDHooksError, UsageError, shown

NUMBER = r"(?:[0-9][0-9_]*(?:\.[0-9_]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
"""How a number is written: 64, 10_000, 0.5, 10e6."""

_TOKEN = re.compile(rf"\s*(?:({NUMBER})|([A-Za-z_][A-Za-z0-9_.]*)|(//|[-+*/%()]))")
_MOST_TOKENS = 64
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


class _Reader:
    """Reads one text from the left; products bind closer than sums."""

    def __init__(self, text: str) -> None:
        self._text, self._names = text, dict[str, None]()
        self._tokens = self._split()
        self._next = 0

    def formula(self) -> Formula:
        node = self._sum()
        if self._next < len(self._tokens):
            raise self._wrong(f"{self._tokens[self._next]!r} is not expected there")
        return Formula(self._text, tuple(self._names), node)

    def _split(self) -> list[str]:
        tokens, position, text = [], 0, self._text.rstrip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._wrong("may hold numbers, parameters, + - * / // % and brackets only")
            tokens.append(match[0].strip())
            position = match.end()
        if len(tokens) > _MOST_TOKENS:
            raise self._wrong("is too long")
        return tokens

    def _sum(self) -> _Node:
        return self._chain(self._product, "+", "-")

    def _product(self) -> _Node:
        return self._chain(self._signed, "*", "/", "//", "%")

    def _chain(self, operand: Callable[[], _Node], *signs: str) -> _Node:
        node = operand()
        while (sign := self._take(*signs)) is not None:
            node = _both(_BINARY[sign], node, operand())
        return node

    def _signed(self) -> _Node:
        if self._take("-") is not None:
            return _both(operator.sub, lambda values: 0, self._signed())
        if self._take("(") is not None:
            node = self._sum()
            if self._take(")") is None:
                raise self._wrong("a bracket has no partner")
            return node
        if self._next == len(self._tokens):
            raise self._wrong("ends too early" if self._tokens else "is empty")
        token = self._tokens[self._next]
        self._next += 1
        if token[0].isalpha() or token[0] == "_":
            self._names[token] = None
            return lambda values: values[token]
        number = number_of(token)
        if number is None:
            raise self._wrong(f"{token!r} is not expected there")
        return lambda values: number

    def _take(self, *tokens: str) -> str | None:
        if self._next < len(self._tokens) and self._tokens[self._next] in tokens:
            self._next += 1
            return self._tokens[self._next - 1]
        return None

    def _wrong(self, message: str) -> FormulaError:
        return FormulaError(f"in {self._text!r}: {message}")


def number_of(text: str) -> Number | None:
    """The finite number that a text is, or None; a whole one where it is written so."""
    if not re.fullmatch(NUMBER, text) or len(text) > 40:
        return None
    digits = text.replace("_", "")
    found = int(digits) if digits.isdecimal() else float(digits)
    return found if math.isfinite(found) else None


def _both(sign: Callable[[Number, Number], Number], left: _Node, right: _Node) -> _Node:
    return lambda values: sign(left(values), right(values))
