"""What a logger is: four calls, none of which has to do anything."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kdhooks.errors import KDHooksError


class LoggerError(KDHooksError):
    """A logger can't be used as it is configured; known before training.

    Attributes:
        key: of the logger's section in the configuration that is at fault; empty for the whole section.
        message: what is wrong, in one sentence without a full stop.
        advice: one thing to do about it.
        logger: its name, once that is known.
    """

    logger = ""

    def __init__(self, message: str, advice: str = "", *, key: str = "") -> None:
        super().__init__(message, advice)
        self.message, self.advice, self.key = message, advice, key

    def __str__(self) -> str:
        return f"{self.message}. {self.advice}".rstrip(". ") if self.advice else self.message


@dataclass(frozen=True)
class RunFacts:
    """What a logger is told before the first step.

    Attributes:
        name: of the run.
        folder: of the run.
        configuration: as YAML.
        parameters: its values by dotted path, as text, numbers and booleans.
        step: the number of the first step; above 0 where a run is resumed.
        former: what `RunLogger.identity` gave when the run that is resumed began; empty for a new one.
    """

    name: str
    folder: Path
    configuration: str = ""
    parameters: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    step: int = 0
    former: Mapping[str, str] = field(default_factory=dict)


class RunLogger:
    """Whoever is told what a run finds; append one to ``distiller.loggers``. Override what is needed.

    All calls come from rank 0, in the thread that trains, and never in the middle of a step.

    Attributes:
        name: for messages.

    Example:
        >>> class Printed(RunLogger):
        ...     def scalars(self, values, step):
        ...         print(step, sorted(values))
        >>> Printed().scalars({"loss/CE": 0.5, "learning_rate": 0.1}, 49)
        49 ['learning_rate', 'loss/CE']
    """

    name = "logger"

    def check(self) -> None:
        """Find out before training what can't work; nothing is sent."""

    def begin(self, run: RunFacts) -> None:
        """A run begins, or goes on."""

    def identity(self) -> Mapping[str, str]:
        """What `begin` needs to go on with the same run in another process."""
        return {}

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """The losses of a step as ``loss/<component>``, and ``learning_rate``."""

    def metrics(self, values: Mapping[str, float], *, epoch: int, step: int) -> None:
        """What the evaluation after an epoch found, as ``evaluation/<metric>``; `step` steps were taken by then."""

    def end(self, status: str) -> None:
        """The run is over: ``finished``, ``stopped`` or ``failed``. Whatever waits to be written is written."""
