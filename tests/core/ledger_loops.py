"""Loops that tell a ledger more or less, and clocks that a test moves on; all numbers are exact in binary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdhooks.ledger import Ledger, StepLedger, Stopwatch


class Hands(Stopwatch):
    """A stopwatch whose time a test moves on."""

    device = "clock of a test"

    def __init__(self) -> None:
        self.now = 0.0

    def stamp(self) -> float:
        return self.now


class Late(Hands):
    """A device behind the host: what a stamp means is known only `behind` stamps later, or after waiting."""

    def __init__(self, behind: int) -> None:
        super().__init__()
        self.made: list[Any] = []
        self.free: list[list[float]] = []
        self.waited = 0
        self.behind = behind

    def stamp(self) -> Any:
        stamp = self.free.pop() if self.free else []
        stamp[:] = [self.now, len(self.made)]
        self.made.append(stamp)
        return stamp

    def known(self, stamp: Any) -> bool:
        return bool(stamp[1] < len(self.made) - self.behind)

    def between(self, stamps: Sequence[Any]) -> list[float]:
        return super().between([stamp[0] for stamp in stamps])

    def wait(self, stamp: Any) -> None:
        self.waited += 1

    def give_back(self, stamps: Sequence[Any]) -> None:
        self.free += stamps


def opened(watch: Hands | None = None, steps: int | None = None) -> tuple[StepLedger, Hands]:
    ledger, watch = StepLedger(steps), watch or Hands()
    ledger.open()
    ledger.began(watch)
    return ledger, watch


def loss(ledger: Ledger, watch: Hands) -> None:
    """One call of on_after_compute_loss: ours 1, losses 2 + 2, and in them the teacher 8 and the cache 4."""
    with ledger.border("loss"):
        watch.now += 0.5
        with ledger.part("losses"):
            watch.now += 2
            with ledger.part("teacher"):
                watch.now += 8
                with ledger.part("cache"):
                    watch.now += 4
            watch.now += 2
        watch.now += 0.5


OF_A_LOSS = {"ours": 1.0, "losses": 4.0, "teacher": 8.0, "cache": 4.0}


def ends(ledger: Ledger, watch: Hands, kind: Any) -> None:
    with ledger.border(kind):
        watch.now += 0.25


def told_nothing(ledger: Ledger, watch: Hands) -> None:
    watch.now += 16
    loss(ledger, watch)
    watch.now += 32


def told_the_end(ledger: Ledger, watch: Hands) -> None:
    told_nothing(ledger, watch)
    ends(ledger, watch, "end")


def told_the_begin(ledger: Ledger, watch: Hands) -> None:
    watch.now += 64
    ends(ledger, watch, "begin")
    told_nothing(ledger, watch)


def told_all(ledger: Ledger, watch: Hands) -> None:
    told_the_begin(ledger, watch)
    ends(ledger, watch, "end")


class Traced(Hands):
    """A framework that traces steps: Python code runs in the first one only, and that is the tracing."""

    def __init__(self) -> None:
        super().__init__()
        self.within = False
        self.tracing = lambda: self.within
