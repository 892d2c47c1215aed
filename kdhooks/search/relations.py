"""Constraints between parameters: ``hidden_size % num_attention_heads == 0``.

A text of a configuration is read here by hand and never handed to Python, so it can run nothing.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

from kdhooks.config.search_settings import Relation
from kdhooks.errors import UsageError

_TOKEN = re.compile(r"\s*(?:([0-9]+\.?[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+)|([A-Za-z_][\w.]*)|(//|[-+*/%()]))")

_COMPARISONS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<=": operator.le,
    ">=": operator.ge,
    "<": operator.lt,
    ">": operator.gt,
}
_SUMS: Mapping[str, Callable[[Any, Any], Any]] = {"+": operator.add, "-": operator.sub}
_PRODUCTS: Mapping[str, Callable[[Any, Any], Any]] = {
    "*": operator.mul,
    "/": operator.truediv,
    "//": operator.floordiv,
    "%": operator.mod,
}

Value = Callable[[Mapping[str, Any]], Any]
"""The number that an architecture gives an expression."""


class Law:
    """A relation that can be asked whether an architecture keeps it.

    Args:
        relation: as the configuration has it.

    Attributes:
        names: the parameters that it speaks of.
        text: as it was written.

    Raises:
        UsageError: it is no comparison of arithmetic.

    >>> law = Law(Relation("width % heads", "==", "0", "width % heads == 0"))
    >>> law.kept_by({"width": 64, "heads": 4}), law.kept_by({"width": 64, "heads": 3}), law.kept_by({"width": 64})
    (True, False, True)
    """

    def __init__(self, relation: Relation) -> None:
        self.text = relation.text
        if relation.comparison not in _COMPARISONS:
            raise UsageError(f"the relation {self.text!r} has no comparison {relation.comparison!r}")
        self._compare = _COMPARISONS[relation.comparison]
        left, right = _Reader(relation.left, self.text), _Reader(relation.right, self.text)
        self._left, self._right = left.value(), right.value()
        self.names = frozenset(left.names | right.names)

    def kept_by(self, arch: Mapping[str, Any]) -> bool:
        """Whether it holds; a division by 0 breaks it, and it asks nothing of what lacks one of its parameters."""
        if not self.names <= arch.keys():
            return True
        try:
            return self._compare(self._left(arch), self._right(arch))
        except (ZeroDivisionError, OverflowError):
            return False


class _Reader:
    """One side of a relation, read from left to right."""

    def __init__(self, side: str, text: str) -> None:
        self._text = text
        self.names: set[str] = set()
        self._tokens = self._split(side)
        self._next = 0

    def value(self) -> Value:
        value = self._sum()
        if self._next < len(self._tokens):
            raise self._wrong(f"{self._tokens[self._next]!r} is not expected there")
        return value

    def _split(self, side: str) -> list[str]:
        tokens, position, side = [], 0, side.rstrip()
        while position < len(side):
            match = _TOKEN.match(side, position)
            if match is None:
                raise self._wrong("it may hold numbers, parameters, + - * / // % and brackets")
            tokens.append(match[0].strip())
            position = match.end()
        if len(tokens) > 64:
            raise self._wrong("it is too long")
        return tokens

    def _sum(self) -> Value:
        value = self._product()
        while (sign := self._take(*_SUMS)) is not None:
            value = _joined(_SUMS[sign], value, self._product())
        return value

    def _product(self) -> Value:
        value = self._signed()
        while (sign := self._take(*_PRODUCTS)) is not None:
            value = _joined(_PRODUCTS[sign], value, self._signed())
        return value

    def _signed(self) -> Value:
        if self._take("-") is not None:
            inner = self._signed()
            return lambda arch: -inner(arch)
        if self._take("(") is not None:
            value = self._sum()
            if self._take(")") is None:
                raise self._wrong("a bracket has no partner")
            return value
        if self._next == len(self._tokens):
            raise self._wrong("a number or a parameter is missing")
        token = self._tokens[self._next]
        self._next += 1
        if token[0].isdigit() or token[0] == ".":
            number = int(token) if token.isdigit() else float(token)
            return lambda arch: number
        if token[0].isalpha() or token[0] == "_":
            self.names.add(token)
            return operator.itemgetter(token)
        raise self._wrong(f"{token!r} is not expected there")

    def _take(self, *tokens: str) -> str | None:
        if self._next < len(self._tokens) and self._tokens[self._next] in tokens:
            self._next += 1
            return self._tokens[self._next - 1]
        return None

    def _wrong(self, message: str) -> UsageError:
        return UsageError(f"the relation {self._text!r} can't be read: {message}")


def _joined(operation: Callable[[Any, Any], Any], left: Value, right: Value) -> Value:
    return lambda arch: operation(left(arch), right(arch))
