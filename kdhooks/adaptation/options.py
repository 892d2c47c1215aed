"""One option of an adapter: its default, its range, and the words for both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeGuard

from kdhooks.errors import shown
from kdhooks.names import fold
from kdhooks.schedules.steps import is_number

Kind = Literal["number", "whole", "flag", "choice", "numbers"]


@dataclass(frozen=True)
class Option:
    """What an option may be.

    Attributes:
        kind: a number, a whole number, true or false, one of `choices`, or a list of numbers.
        default: where nothing is given.
        at_least: the smallest number.
        above: what numbers must be above.
        choices: words that are good besides.

    >>> Option("whole", 1, at_least=1).words
    'a whole number of at least 1'
    >>> Option("number", "mean", above=0, choices=("mean", "median")).words
    "'mean', 'median' or a number above 0"
    """

    kind: Kind
    default: Any
    at_least: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()

    @property
    def words(self) -> str:
        """What the option expects."""
        found = [repr(choice) for choice in self.choices]
        if self.kind == "flag":
            found = ["true", "false", *found]
        elif self.kind != "choice":
            found.append(self._numbers())
        return " or ".join([", ".join(found[:-1]), found[-1]] if len(found) > 1 else found)

    def _numbers(self) -> str:
        range_ = f" of at least {self.at_least:g}" if self.at_least is not None else ""
        range_ = f" above {self.above:g}" if self.above is not None else range_
        if self.kind == "numbers":
            return f"a list of numbers{range_}"
        return f"a {'whole ' * (self.kind == 'whole')}number{range_}"

    def read(self, value: Any) -> Any:
        """The value as the option holds it: a list as a tuple, 1e3 as 1000, a choice in its own spelling.

        Raises:
            ValueError: it is none; the message is what was expected and what it is.
        """
        spelled = {fold(choice): choice for choice in self.choices}
        if isinstance(value, str) and fold(value) in spelled:
            return spelled[fold(value)]
        if self.kind == "flag" and isinstance(value, bool):
            return value
        if self.kind == "numbers" and isinstance(value, Sequence) and not isinstance(value, str):
            if value and all(self._admits(one) for one in value):
                return tuple(float(one) for one in value)
        elif self.kind in ("number", "whole") and self._admits(value):
            return int(value) if self.kind == "whole" else float(value)
        raise ValueError(f"expected {self.words}, got {self._named(value)}")

    def _admits(self, value: Any) -> TypeGuard[float]:
        if not is_number(value):
            return False
        if self.kind == "whole" and value != int(value):
            return False
        return (self.at_least is None or value >= self.at_least) and (self.above is None or value > self.above)

    def _named(self, value: Any) -> str:
        """A list is named by the first of it that is wrong."""
        if self.kind != "numbers" or isinstance(value, str) or not isinstance(value, Sequence):
            return shown(value)
        wrong = next((one for one in value if not self._admits(one)), None)
        return f"{shown(wrong)} in it" if value else "an empty list"
