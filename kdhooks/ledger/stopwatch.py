"""What tells the time: the host's clock, or a device that works behind the host and is asked later."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any


class Stopwatch:
    """The host's clock, whose stamps are seconds; a backend has another one for a device that runs behind the host.

    Attributes:
        device: whose time it is, as a person calls it.
        tracing: says whether this code runs once for a graph that will run many times, when the time is that of the
            tracing; None where that never happens.
        note: what a reader of the times must know, or an empty string.
    """

    device = "cpu"
    tracing: Callable[[], bool] | None = None
    note = ""

    def stamp(self) -> Any:
        """The present moment, without waiting for the device."""
        return time.perf_counter()

    def between(self, stamps: Sequence[Any]) -> list[float]:
        """Seconds from each stamp to the next one; all must be `known`."""
        return [later - earlier for earlier, later in pairwise(stamps)]

    def known(self, stamp: Any) -> bool:
        """Whether the moment of a stamp is known by now, and so those of all stamps before it; never waits."""
        return True

    def wait(self, stamp: Any) -> None:
        """Wait until the moment of a stamp is known."""

    def give_back(self, stamps: Sequence[Any]) -> None:
        """Stamps that are not needed any more."""
