"""Loggers that can't end a run: the first failure is said, and the logger is not asked again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from kdhooks.errors import UsageError, told
from kdhooks.messages import logger as messages
from kdhooks.runs.loggers.base import LoggerError, RunFacts, RunLogger

_CALLS = ("begin", "scalars", "metrics", "end")


class Guarded:
    """Several loggers as one, for the time of a run.

    Args:
        loggers: that were checked.
    """

    def __init__(self, loggers: Iterable[RunLogger] = ()) -> None:
        self._loggers = list(loggers)
        self._begun: list[RunLogger] = []

    def begin(self, run: RunFacts, former: Mapping[str, Any]) -> dict[str, dict[str, str]]:
        """All begin, or none: where one fails the others end. Returns what each needs to go on, by name.

        Args:
            run: told to each.
            former: what an earlier call returned, for a run that goes on.
        """
        identities = {}
        for one in self._loggers:
            known = former.get(one.name)
            try:
                one.begin(replace(run, former=known if isinstance(known, Mapping) else {}))
                self._begun.append(one)
                identity = dict(one.identity())
            except BaseException as error:
                if isinstance(error, LoggerError):
                    error.logger = one.name
                self.end("failed")
                raise
            if identity:
                identities[one.name] = identity
        return identities

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Tell all of them the values that are finite."""
        finite = _finite(values)
        if finite and self._begun:
            self._tell(lambda one: one.scalars(finite, step))

    def metrics(self, values: Mapping[str, float], *, epoch: int, step: int) -> None:
        """Tell all of them the values that are finite."""
        finite = _finite(values)
        if finite and self._begun:
            self._tell(lambda one: one.metrics(finite, epoch=epoch, step=step))

    def end(self, status: str) -> None:
        """End those that began; a second call does nothing."""
        self._tell(lambda one: one.end(status))
        self._begun = []

    def _tell(self, call: Callable[[RunLogger], object]) -> None:
        for one in tuple(self._begun):
            try:
                call(one)
            except Exception as error:
                self._begun.remove(one)
                messages.warning(
                    "the logger %s failed and gets nothing more of this run, which goes on: %s", one.name, told(error)
                )


def guarded(own: Any, configured: Iterable[RunLogger]) -> Guarded:
    """The user's and the configuration's loggers, each checked.

    Raises:
        UsageError: something in `own` is no logger.
        LoggerError, MissingPackageError: one can't be used.
    """
    if not isinstance(own, (list, tuple)):
        raise UsageError(f"distiller.loggers must be a list of loggers, not {type(own).__name__}")
    for place, one in enumerate(own):
        lacking = [call for call in _CALLS if not callable(getattr(one, call, None))]
        if lacking:
            raise UsageError(
                f"distiller.loggers[{place}] is a {type(one).__name__}, which has no method {lacking[0]}(): "
                "derive its class from kdhooks.runs.RunLogger"
            )
    loggers = [*own, *configured]
    for one in own:
        one.check()
    return Guarded(loggers)


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in values.items() if math.isfinite(value)}
