"""What a run tells: its record and its loggers as one, called where the losses are read anyway.

Rules: nothing here waits for a device or fails a run. A recorder that keeps nothing costs one call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kdhooks.runs.loggers import Guarded, RunFacts
from kdhooks.runs.record import RunRecord

Histories = Callable[[], Sequence[Mapping[str, Any]]]


class Recorder:
    """A run's record and loggers.

    Args:
        record: None keeps none.
        loggers: that are told.
        facts: what loggers are told before the first step.
        history: gives the records of the epochs so far.
    """

    def __init__(
        self,
        record: RunRecord | None = None,
        loggers: Guarded | None = None,
        facts: RunFacts | None = None,
        history: Histories = tuple,
    ) -> None:
        self.record = record
        self._loggers = Guarded() if loggers is None else loggers
        self._facts, self._history = facts, history
        self._begun = self._ended = False
        self._told = -1

    def continues(self, step: int, folder: Path | None = None) -> None:
        """The run goes on from a saved state whose next step this is; its record may be in another folder."""
        if self.record is not None:
            self.record.continues(step, folder)

    def begin(self, step: int) -> None:
        """The first step comes next; a second call does nothing.

        Raises:
            LoggerError: a logger can't begin.
        """
        if self._begun:
            return
        self._begun = True
        if self._facts is not None:
            former = {} if self.record is None else self.record.unfinished.get("loggers", {})
            facts = RunFacts(**{**vars(self._facts), "step": step})
            identities = self._loggers.begin(facts, former)
            if self.record is not None and identities:
                self.record.unfinished["loggers"] = identities
        self.write()

    def reading(self, step: int, losses: Mapping[str, float], rate: float | None) -> None:
        """The losses of a step were read; one that is told already is left out."""
        if step <= self._told or not losses or self._ended:
            return
        self._told = step
        if self.record is not None:
            self.record.add(step, losses, rate)
        values = {f"loss/{name}": value for name, value in losses.items()}
        self._loggers.scalars(values if rate is None else {**values, "learning_rate": rate}, step)

    def epoch(self, record: Mapping[str, Any], step: int) -> None:
        """An epoch ended, after so many steps of the run."""
        self.metrics(record["metrics"], epoch=record["epoch"], step=step)
        self.write()

    def metrics(self, metrics: Mapping[str, float], *, epoch: int, step: int) -> None:
        """What evaluation found."""
        named = {f"evaluation/{name}": value for name, value in metrics.items()}
        self._loggers.metrics(named, epoch=epoch, step=step)

    def write(self) -> None:
        """Bring the file up to date."""
        if self.record is not None and not self._ended:
            self.record.write(self._history())

    def end(self, status: str) -> None:
        """The run is over; a second call does nothing."""
        if self._ended:
            return
        self._ended = True
        if self.record is not None:
            self.record.write(self._history(), status)
        self._loggers.end(status)
