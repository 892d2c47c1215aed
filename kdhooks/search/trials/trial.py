"""One candidate, from the builder's call to its record.

Rules: a trial holds no model when it is over. What a user's function does wrong ends the candidate and not the
search; what the next candidate would do wrong as well is raised. All ranks of a group run the same trial, and what
is decided about it comes from rank 0.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from kdhooks.backend import framework_of
from kdhooks.config.search_settings import MEASURED, Limit
from kdhooks.errors import UsageError
from kdhooks.measurement import shown
from kdhooks.search.candidates import Candidate, State
from kdhooks.search.studies.study import Proposal
from kdhooks.search.trials.endings import MISTAKES, Ended, reason_of
from kdhooks.search.trials.returned import not_finite
from kdhooks.search.trials.together import Together

Stages = tuple[Mapping[str, Any], ...]
Report = Callable[[int, float], None]
"""Takes the number of an epoch and its score; raises `Ended` where the pruner ends the candidate."""


class Actions(Protocol):
    """What is done with every candidate of a search."""

    def build(self, proposal: Proposal) -> Any:
        """A new model, from generators with the proposal's seed."""

    def prepare(self, model: Any) -> None:
        """Find out what is wrong before anything is trained."""

    def train(self, model: Any, proposal: Proposal, report: Report) -> tuple[Any, Stages]:
        """The trained model, and what its stages did."""

    def judge(self, model: Any) -> dict[str, float]:
        """Metrics by name."""

    def measure(self, model: Any, names: Sequence[str]) -> Mapping[str, Any]:
        """A `kdhooks.measurement.Measured` for each name of `MEASURED`."""

    def done(self) -> None:
        """The candidate is complete: others may begin with what it has learned."""


@dataclass(frozen=True)
class Rules:
    """What holds for every candidate of a search.

    Attributes:
        metrics: that it is searched for, in their order.
        limits: constraints on metrics.
        trained: whether a function of the user's trains, and not what the configuration says.
        judged: whether a function of the user's judges, which may return metrics of `MEASURED` too.
        lenient: whether a mistake that a program makes ends the candidate alone, since others were trained before it.
    """

    metrics: tuple[str, ...]
    limits: tuple[Limit, ...] = ()
    trained: bool = True
    judged: bool = True
    lenient: bool = False

    @property
    def early(self) -> tuple[str, ...]:
        """What is measured before any training: what a limit asks for, and what nobody else could return."""
        wanted = [limit.metric for limit in self.limits] + ([] if self.judged else list(self.metrics))
        return tuple(name for name in MEASURED if name in wanted)

    def broken(self, metrics: Mapping[str, float]) -> str | None:
        """The limits that metrics break, in words; None where they keep all that they are known for.

        >>> Rules(("latency",), (Limit("latency", True, 0.005, "latency <= 5 ms"),)).broken({"latency": 0.0062})
        'latency is 6.2 ms, which breaks latency <= 5 ms'
        """
        known = [limit for limit in self.limits if limit.metric in metrics]
        broken = [limit for limit in known if limit.violation(metrics[limit.metric]) > 0]
        texts = [f"{one.metric} is {shown(one.metric, metrics[one.metric])}, which breaks {one.text}" for one in broken]
        return "; ".join(texts) or None


@dataclass
class Trial:
    """A candidate on its way.

    Args:
        proposal: its number, its parameters, and the seed of what the builder and the training draw.
        rules: of the search.
        actions: what is done with it.
        together: the ranks that train it.
        report: takes a score of it, and says whether the pruner ends it; on rank 0 only.
        keep: writes the weights where they are worth it, and returns the file; on rank 0 only.
    """

    proposal: Proposal
    rules: Rules
    actions: Actions
    together: Together
    report: Callable[[Proposal, int, float], bool]
    keep: Callable[[Any, Candidate], str | None]
    _metrics: dict[str, float] = field(default_factory=dict)
    _spread: dict[str, tuple[float, float]] = field(default_factory=dict)
    _stages: Stages = ()
    _doing: str = "model_builder"
    _model: weakref.ref[Any] | None = None

    def run(self) -> Candidate:
        """Do all of it; see the module for what is raised."""
        began = time.perf_counter()
        state: State = "complete"
        reason, model = "", None
        try:
            model = self._trained()
        except Ended as end:
            state, reason = end.state, end.reason
        except Exception as error:
            if isinstance(error, MISTAKES) and not self.rules.lenient:
                raise
            state, reason = "failed", reason_of(error, self._doing)
        candidate = self._record(state, reason, time.perf_counter() - began)
        if candidate.state == "complete" and self.together.leads:
            self.actions.done()
            candidate = replace(candidate, weights=self.keep(model, candidate))
        return candidate

    @property
    def lingers(self) -> bool:
        """Whether the model is still there: something holds it, or a circle that the collector has not found yet."""
        return self._model is not None and self._model() is not None

    def ended_early(self, step: int, score: float) -> None:
        """Tell the pruner a score.

        Raises:
            Ended: the pruner ends the candidate.
        """
        if self.together.led(lambda: self.report(self.proposal, step, float(score))):
            raise Ended("pruned", f"its score {score:.4g} after epoch {step} was behind the others'")

    def _trained(self) -> Any:
        """The model, trained and judged, once it is known to keep all limits."""
        model = self._built()
        self._measure(model, self.rules.early)
        self._check_limits()
        self._doing = "preparing"
        self.actions.prepare(model)
        self._doing = "train_func" if self.rules.trained else "training"
        model, self._stages = self.actions.train(model, self.proposal, self.ended_early)
        self._doing = "eval_func" if self.rules.judged else "evaluation"
        self._judge(model)
        self._measure(model, [name for name in self.rules.metrics if name not in self._metrics])
        self._check_limits()
        return model

    def _built(self) -> Any:
        model = self.actions.build(self.proposal)
        if framework_of(model) is None:
            made = "nothing" if model is None else f"an object of type {type(model).__name__}"
            raise UsageError(f"model_builder returned {made}: it must return a model of PyTorch or Keras")
        self._model = weakref.ref(model)
        return model

    def _measure(self, model: Any, names: Sequence[str]) -> None:
        if not names:
            return
        self._doing = f"measuring {', '.join(names)}"
        found = self.actions.measure(model, names)
        values = {name: [one.value, one.low, one.high] for name, one in found.items()}
        for name, (value, low, high) in self.together.shared(values).items():
            self._metrics[name] = value
            if not low == value == high:
                self._spread[name] = (low, high)
        self._check_finite(names)

    def _judge(self, model: Any) -> None:
        values = self.together.shared(self.actions.judge(model))
        self._metrics |= values
        for name in values:
            self._spread.pop(name, None)
        self._check_finite([name for name in self.rules.metrics if name in values])

    def _check_finite(self, names: Sequence[str]) -> None:
        wrong = not_finite(self._metrics, names)
        if wrong is not None:
            raise Ended("failed", wrong)

    def _check_limits(self) -> None:
        broken = self.rules.broken(self._metrics)
        if broken is not None:
            raise Ended("infeasible", broken)

    def _record(self, state: State, reason: str, seconds: float) -> Candidate:
        """What is known, with the metrics of the search first; the same on all ranks."""
        names = [*(name for name in self.rules.metrics if name in self._metrics), *self._metrics]
        mine = Candidate(
            self.proposal.number,
            dict(self.proposal.arch),
            state,
            {name: self._metrics[name] for name in dict.fromkeys(names)},
            self._spread,
            reason,
            seconds,
            stages=self._stages,
        )
        return mine if self.together.size == 1 else Candidate.from_dict(self.together.shared(mine.as_dict()))
