"""Counts losses, as schedules do; a backend whose steps run in a graph has a clock of its own kind."""

from __future__ import annotations

from typing import Any


class Clock:
    """Counts in Python.

    Attributes:
        step: the number that the next loss will have.
        steps_in_epoch: losses so far in this epoch.
    """

    def __init__(self) -> None:
        self.step, self.steps_in_epoch = 0, 0

    def now(self) -> Any:
        """The number of the loss that is being computed: an integer, or a tensor of a graph that runs many times."""
        return self.step

    def advance(self, index: Any) -> None:
        """The loss of this number, which `now` gave, is computed."""
        self.step = index + 1
        self.steps_in_epoch += 1

    def end(self) -> None:
        """No step of this run comes any more."""
