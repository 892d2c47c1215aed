"""The ledger that times nothing, which every run has until somebody profiles."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, Protocol

from kdhooks.ledger.stopwatch import Stopwatch

Border = Literal["begin", "loss", "end"]
"""Where a loop calls us: ``on_step_begin``, ``on_after_compute_loss``, ``on_step_end``."""


class HasLedger(Protocol):
    """A run, whose ledger changes when a profile is opened or closed."""

    ledger: Ledger


class Ledger:
    """Times the parts of steps; this one times nothing."""

    def part(self, name: str) -> AbstractContextManager[object]:
        """Time what the block does under a name: ``teacher``, ``cache``, ``losses``.

        A part inside of a part counts for the inner one only. ``outside`` counts for no step.
        """
        return _NOTHING

    def count(self, name: str, number: int) -> None:
        """Add to a count: ``rows``, ``hits``, ``misses``."""

    def border(self, kind: Border) -> AbstractContextManager[object]:
        """The loop calls us: what the block does is ours, and the time since the last border was the loop's."""
        return _NOTHING

    def step_of(self, given: Any) -> None:
        """Count a loss, and the rows of the student's input."""

    def epoch_begins(self) -> None:
        """What lies between the last step and now, such as an evaluation, belongs to no step."""

    def began(self, stopwatch: Stopwatch) -> None:
        """A run begins, and is timed with this stopwatch."""

    def of_built_in_loop(self, yes: bool) -> None:
        """The built-in loop begins or ends, which tells itself where it waits for data and where a step ends."""


class CurrentLedger(Ledger):
    """The ledger that somebody has at the moment, for Python code that a graph calls long after it was traced.

    Args:
        owner: has the ledger as its attribute ``ledger``.
    """

    def __init__(self, owner: HasLedger) -> None:
        self._owner = owner

    def part(self, name: str) -> AbstractContextManager[object]:
        """Time what the block does under a name."""
        return self._owner.ledger.part(name)

    def count(self, name: str, number: int) -> None:
        """Add to a count."""
        self._owner.ledger.count(name, number)


_NOTHING = nullcontext()

OFF = Ledger()
"""What a step has where nothing is timed."""
