"""What the page asks of a run's record: its models, metrics and epochs, with gaps where something is missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from kdhooks.report.numbers import Metric, finite

Run = Mapping[str, Any]


@dataclass(frozen=True)
class Model:
    """One model of the run; what is not known is None.

    Attributes:
        role: ``student``, ``teacher``, or a teacher's name.
        kind: the name of its class.
        parameters: their number.
        file_bytes: of its weights.
        latency: median, low and high, in ms.
        macs: multiply-accumulates of one row.
        metrics: by name.
    """

    role: str
    kind: str = ""
    parameters: float | None = None
    file_bytes: float | None = None
    latency: tuple[float, float, float] | None = None
    macs: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, role: str, entry: Mapping[str, Any]) -> Model:
        """One of the record's ``models``."""
        times = entry.get("latency_ms")
        middle = finite(times.get("median")) if isinstance(times, Mapping) else finite(times)
        latency = None
        if middle is not None:
            ends = (finite(times.get(key)) if isinstance(times, Mapping) else None for key in ("low", "high"))
            low, high = (middle if end is None else end for end in ends)
            latency = (middle, low, high)
        metrics = {str(name): finite(value) for name, value in (entry.get("metrics") or {}).items()}
        return cls(
            role=role,
            kind=str(entry.get("class") or ""),
            parameters=finite(entry.get("parameters")),
            file_bytes=finite(entry.get("file_bytes")),
            latency=latency,
            macs=finite(entry.get("macs")),
            metrics={name: value for name, value in metrics.items() if value is not None},
        )


@dataclass(frozen=True)
class Pages:
    """A record as the sections of the page read it.

    Attributes:
        run: the record.
    """

    run: Run

    @cached_property
    def history(self) -> Sequence[Mapping[str, Any]]:
        """The records of epochs."""
        return list(self.run.get("history") or ())

    @cached_property
    def epochs(self) -> list[float]:
        """Their numbers."""
        return [float(record.get("epoch", at)) for at, record in enumerate(self.history)]

    @cached_property
    def student(self) -> Model:
        """The student, which is empty where nothing is known of it."""
        return Model.of("student", (self.run.get("models") or {}).get("student") or {})

    @cached_property
    def teachers(self) -> list[Model]:
        """All models but the student of which something is known."""
        models = self.run.get("models") or {}
        return [Model.of(str(name), entry) for name, entry in models.items() if name != "student" and entry]

    @cached_property
    def best(self) -> Mapping[str, Any] | None:
        """The best epoch's record: the last one that was the best when it ended."""
        return next((record for record in reversed(self.history) if record.get("best")), None)

    def column(self, group: str, name: str) -> list[float | None]:
        """One number of each epoch: of ``losses`` or ``metrics``."""
        return [finite((record.get(group) or {}).get(name)) for record in self.history]

    def names(self, group: str) -> list[str]:
        """All names of losses or of metrics in the order of first sight, ``total`` first."""
        found = dict.fromkeys(str(name) for record in self.history for name in record.get(group) or {})
        if group == "losses":
            found |= dict.fromkeys(self.step_losses)
        return sorted(found, key=lambda name: name != "total")

    @cached_property
    def step_losses(self) -> Mapping[str, Sequence[Any]]:
        """The losses of single steps by component."""
        return dict((self.run.get("steps") or {}).get("losses") or {})

    @cached_property
    def steps_in_epochs(self) -> list[float]:
        """Where the steps stand on an axis of epochs; epoch e goes from e - 1/2 to e + 1/2.

        Without epochs, or where an epoch doesn't tell its steps, they are the steps' own numbers.
        """
        steps = [float(step) for step in (self.run.get("steps") or {}).get("step") or ()]
        counts = [int(finite(record.get("steps")) or 0) for record in self.history]
        if not counts or min(counts) < 1:
            return steps
        places, at, begin = [], 0, 0
        for step in steps:
            while at < len(counts) and step >= begin + counts[at]:
                begin, at = begin + counts[at], at + 1
            epoch, count = (self.epochs[at], counts[at]) if at < len(counts) else (self.epochs[-1] + 1, counts[-1])
            places.append(epoch - 0.5 + (step - begin) / count)
        return places

    @cached_property
    def counts_epochs(self) -> bool:
        """Whether the axes of curves count epochs, not steps."""
        return bool(self.history)

    @cached_property
    def metrics(self) -> list[Metric]:
        """The metrics of epochs and models; the one that decides first."""
        models = [self.student, *self.teachers]
        names = dict.fromkeys([*self.names("metrics"), *(name for model in models for name in model.metrics)])
        found = []
        for name in names:
            values = [value for value in self.column("metrics", name) if value is not None]
            values += [model.metrics[name] for model in models if name in model.metrics]
            found.append(Metric.of(name, values, self._direction(name)))
        return sorted(found, key=lambda metric: not self._decides(metric.name))

    def _decides(self, name: str) -> bool:
        """Whether the score of every evaluated epoch is this metric."""
        pairs = [((r.get("metrics") or {}).get(name), r.get("score")) for r in self.history if r.get("score")]
        return bool(pairs) and all(value == score for value, score in pairs)

    def _direction(self, name: str) -> bool | None:
        """Whether higher is better, as the epochs that were called the best tell; None where they don't."""
        values = [value for value in self.column("metrics", name) if value is not None]
        if self.best is None or not self._decides(name) or min(values) == max(values):
            return None
        chosen = finite((self.best.get("metrics") or {}).get(name))
        return True if chosen == max(values) else False if chosen == min(values) else None
