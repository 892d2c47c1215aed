"""Arithmetic in a text of a configuration, read by hand: it is never handed to Python, so it can run nothing."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, TypeVar

MOST_TOKENS = 64

Value = TypeVar("Value")
"""What a part of the text stands for: a number, or something that gives one later."""


class ArithmeticReader(ABC, Generic[Value]):
    """Reads one text from the left; products bind closer than sums, and brackets closer than both.

    Args:
        text: sums, products, signs and brackets over numbers and names.

    Attributes:
        token: finds the next number, name or sign.
        allowed: what a text may hold, in words.
        products: the signs that bind as products do.
    """

    token: re.Pattern[str]
    allowed: str
    products: tuple[str, ...]

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = self._split()
        self._next = 0

    @abstractmethod
    def _operand(self, token: str) -> Value | None:
        """What a number or name stands for; None where it is neither."""

    @abstractmethod
    def _combined(self, sign: str, left: Value, right: Value) -> Value:
        """Both with a sign between them."""

    @abstractmethod
    def _negative(self, value: Value) -> Value:
        """The same behind a minus."""

    @abstractmethod
    def _wrong(self, message: str, suggestion: str = "") -> Exception:
        """The error that says so of this text."""

    def _whole(self) -> Value:
        """What the whole text stands for."""
        value = self._sum()
        if self._next < len(self._tokens):
            raise self._wrong(f"{self._tokens[self._next]!r} is not expected there")
        return value

    def _split(self) -> list[str]:
        tokens, position, text = [], 0, self._text.rstrip()
        while position < len(text):
            match = self.token.match(text, position)
            if match is None:
                raise self._wrong(f"may hold {self.allowed} only")
            tokens.append(match[0].strip())
            position = match.end()
        if len(tokens) > MOST_TOKENS:
            raise self._wrong("is too long")
        return tokens

    def _sum(self) -> Value:
        return self._chain(self._product, "+", "-")

    def _product(self) -> Value:
        return self._chain(self._signed, *self.products)

    def _chain(self, operand: Callable[[], Value], *signs: str) -> Value:
        value = operand()
        while (sign := self._take(*signs)) is not None:
            value = self._combined(sign, value, operand())
        return value

    def _signed(self) -> Value:
        if self._take("-") is not None:
            return self._negative(self._signed())
        if self._take("(") is not None:
            value = self._sum()
            if self._take(")") is None:
                raise self._wrong("a bracket has no partner")
            return value
        if self._next == len(self._tokens):
            raise self._wrong("ends too early" if self._tokens else "is empty")
        token = self._tokens[self._next]
        self._next += 1
        found = self._operand(token)
        if found is None:
            raise self._wrong(f"{token!r} is not expected there")
        return found

    def _take(self, *tokens: str) -> str | None:
        if self._next < len(self._tokens) and self._tokens[self._next] in tokens:
            self._next += 1
            return self._tokens[self._next - 1]
        return None
