"""Arithmetic in the patterns of layer mappings: whole numbers, variables, ``+ - * // %`` and brackets.

How a text is read, and that it can run nothing: `arithmetic`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from kdhooks.config.arithmetic import ArithmeticReader
from kdhooks.schedules import Finding


class Wrong(Exception):
    """Ends the reading of one entry.

    Attributes:
        finding: what is wrong and where.
    """

    def __init__(self, path: str, message: str, suggestion: str = "", *, of_key: bool = False) -> None:
        super().__init__(message)
        self.finding = Finding(path, message, suggestion, of_key)


class Expression(ArithmeticReader[int]):
    """An expression that stands for a number.

    Args:
        text: as it stands between braces.
        values: of the variables.
        used: gets the names of the variables that are in it.
        path: where it stands, for messages.

    >>> Expression("2*i+1", {"i": 3}, set(), "layer_mappings[0]").value()
    7
    """

    token = re.compile(r"\s*(?:([0-9]{1,9})|([A-Za-z_][A-Za-z0-9_]*)|(//|[-+*%()]))")
    allowed = "whole numbers, variables, + - * // % and brackets"
    products = ("*", "//", "%")

    def __init__(self, text: str, values: Mapping[str, int], used: set[str], path: str) -> None:
        self._values, self._used, self._path = values, used, path
        super().__init__(text)

    def value(self) -> int:
        """The number; an error where it is none, or negative."""
        number = self._whole()
        if number < 0:
            raise self._wrong(f"is {number} for {self._shown()}; layers are counted from 0")
        return number

    def _operand(self, token: str) -> int | None:
        if token.isdigit():
            return int(token)
        if token in self._values:
            self._used.add(token)
            return self._values[token]
        if token.isidentifier():
            advice = f"Write it beside student and teacher: {token}: 0..5"
            raise self._wrong(f"the variable {token} has no range", advice)
        return None

    def _combined(self, sign: str, left: int, right: int) -> int:
        if sign in "+-":
            return left + right if sign == "+" else left - right
        if sign != "*" and right == 0:
            raise self._wrong(f"divides by 0 for {self._shown()}")
        number = left * right if sign == "*" else left // right if sign == "//" else left % right
        if abs(number) > 10**9:
            raise self._wrong("gives too large a number")
        return number

    def _negative(self, value: int) -> int:
        return -value

    def _shown(self) -> str:
        return ", ".join(f"{name} = {number}" for name, number in self._values.items())

    def _wrong(self, message: str, suggestion: str = "") -> Wrong:
        return Wrong(self._path, f"in {{{self._text}}}: {message}", suggestion)
