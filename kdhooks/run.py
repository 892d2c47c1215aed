"""One run, from `on_train_begin` to `on_train_end`: the counters, and what happens at each step.

A `Run` is made anew by every `on_train_begin`, so nothing of an earlier run can leak into a later one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from kdhooks.backend import Backend
from kdhooks.criterion import Criterion, Objective, Step
from kdhooks.errors import CheckpointError
from kdhooks.evaluation import Best
from kdhooks.history import History
from kdhooks.hooks import Hook, HookList
from kdhooks.ledger import OFF, CurrentLedger, Ledger
from kdhooks.messages import logger
from kdhooks.speed import Choice

STATE_VERSION = 1

Evaluate = Callable[[Any], tuple[dict[str, float], float, bool]]
"""model -> named metrics, score, whether a higher score is better."""


class Run:
    """The state of a run.

    Args:
        backend: the framework's side.
        criteria: what is summed.
        student: whose run it is.
        teachers: by name, each a `Hook` that is called as a function of its input.
        epoch: the number of the first epoch.

    Attributes:
        clock: counts the losses.
        epoch: the number of the epoch that is under way.
        attached: between begin and end.
        ledger: times the parts of steps, where somebody profiles.
    """

    def __init__(
        self, backend: Backend, criteria: Sequence[Criterion], student: Any, teachers: Mapping[str, Any], *, epoch: int
    ) -> None:
        self.objective = Objective(criteria)
        self.teachers = teachers
        self.history = History()
        self.best = Best()
        self.hooks = HookList()
        self.monitor = backend.monitor(student)
        self.clock = backend.clock(student)
        self.epoch = self.first_epoch = epoch
        self.attached = False
        self.ledger: Ledger = OFF
        self._backend = backend
        self._check_loss = backend.check_loss
        self._began = time.perf_counter()
        self._warned = False
        for event in ("begin_step", "loss", "end_step"):  # what may stand in a function that a framework rewrites
            setattr(self, event, backend.unconverted(getattr(self, event)))

    def begin(self, *hooks: Hook) -> None:
        """Attach hooks, the teachers, and the criteria that attach something."""
        for hook in (*hooks, *self.teachers.values(), *self.objective.criteria):
            if hasattr(hook, "on_train_begin"):
                self.hooks.begin(hook)
        self.attached = True

    def end(self) -> None:
        """Detach all; a second call does nothing."""
        self.attached = False
        self.clock.end()
        self.hooks.end()

    def begin_epoch(self, epoch: int) -> None:
        """An epoch of this number begins."""
        self.ledger.epoch_begins()
        self.epoch, self._began = epoch, time.perf_counter()
        for hook in self.hooks:
            hook.on_epoch_begin(epoch)

    def begin_step(self, step: int) -> None:
        """The next loss has this number."""
        with self.ledger.border("begin"):
            self.clock.step = step
            for hook in self.hooks:
                hook.on_step_begin(step)

    def loss(self, step: Step, student_loss: Any) -> Any:
        """The total loss of a step; its components go to the monitor."""
        number: Any = step.index
        if not isinstance(number, int):  # of a graph, which outlives the profile that it was traced in
            step.ledger = CurrentLedger(self)
        with self.ledger.border("loss"):
            self.ledger.step_of(step.input)
            total, names, values = self._backend.total(self.objective, step, self._check_loss(student_loss))
            self.monitor.record(step.index, names, values)
            self.clock.advance(step.index)
            for hook in self.hooks:
                hook.on_after_compute_loss()
        return total

    def end_step(self) -> None:
        """The optimizer has stepped."""
        with self.ledger.border("end"):
            for hook in self.hooks:
                hook.on_step_end()

    def end_epoch(
        self, learning_rate: float | None, evaluate: Callable[[], dict[str, Any]], batches: int | None = None
    ) -> dict[str, Any]:
        """Close the epoch and return its record.

        Args:
            learning_rate: at the epoch's end.
            evaluate: gives the record's ``metrics``, ``score`` and ``best``.
            batches: how many the losses were parts of; None where each was of a whole one.
        """
        with self.ledger.part("outside"):
            seconds = time.perf_counter() - self._began
            losses = self.monitor.end_epoch()
            self.warn_if_bad()
            steps = self.clock.steps_in_epoch
            if batches:
                losses = {name: value * steps / batches for name, value in losses.items()}
            record = {"epoch": self.epoch, "steps": batches or steps, "losses": losses, **evaluate()}
            record |= {"learning_rate": learning_rate, "seconds": seconds}
            self.history.append(record)
            for hook in self.hooks:
                hook.on_epoch_end()
        self.epoch += 1
        self.clock.steps_in_epoch, self._began = 0, time.perf_counter()
        return record

    def judge(self, student: Any, evaluate: Evaluate, *, epoch: int) -> dict[str, Any]:
        """Evaluate the student after this epoch, and keep its weights where they are the best so far."""
        with self._backend.evaluation_mode(student):
            metrics, score, higher = evaluate(student)
        score = self._backend.score_of_all(student, score)
        best = self.best.offer(score, epoch, higher_is_better=higher, weights=lambda: self._backend.snapshot(student))
        return {"metrics": metrics, "score": score, "best": best}

    def losses(self) -> dict[str, float]:
        """The last step's components; waits for the device."""
        losses = self.monitor.last()
        self.warn_if_bad()
        return losses

    def warn_if_bad(self) -> None:
        """Say once that a loss was NaN or infinite; whether to stop is the loop's own decision."""
        bad = None if self._warned else self.monitor.first_bad()
        if bad is not None:
            self._warned = True
            reason = self.explain(bad[1])
            because = f":\n{reason}" if reason else ""
            logger.warning("the loss component %r became NaN or infinite at step %d%s", bad[1], bad[0], because)

    def explain(self, component: str) -> str | None:
        """Why a component was not finite, where a criterion knows; waits for the device."""
        for criterion in self.objective.criteria:
            reason: str | None = criterion.explain(component) if hasattr(criterion, "explain") else None
            if reason is not None:
                return reason
        return None

    def state_dict(self) -> dict[str, Any]:
        """Plain data and tensors only, so that it loads without unpickling anything."""
        return {
            "version": STATE_VERSION,
            "step": self.clock.step,
            "epoch": self.epoch,
            "steps_in_epoch": self.clock.steps_in_epoch,
            "history": [dict(record) for record in self.history],
            "best": {"score": self.best.score, "epoch": self.best.epoch, "weights": self.best.weights},
            "monitor": self.monitor.state_dict(),
            "criteria": [criterion.state_dict() for criterion in self._stateful()],
            "teachers": {name: one.state_dict() for name, one in self.teachers.items() if has_state(one)},
            "choices": {name: made.to_dict() for name, one in self.teachers.items() if (made := _chosen(one))},
            "rng": self._backend.rng_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where a saved run stood.

        Raises:
            CheckpointError: not a state of ours, of a newer version, or of other criteria.
        """
        stateful = self._stateful()
        check_state(state, len(stateful))
        self.clock.step, self.clock.steps_in_epoch = state["step"], state["steps_in_epoch"]
        self.epoch = state["epoch"]
        self.history = History(dict(record) for record in state["history"])
        self.best = Best(**state["best"])
        self.monitor.load_state_dict(state["monitor"])
        for criterion, saved in zip(stateful, state["criteria"], strict=True):
            criterion.load_state_dict(saved)
        for name, saved in state.get("teachers", {}).items():  # older states have none
            if not has_state(self.teachers.get(name)):
                message = f"this state holds a teacher {name!r} that follows the student, and this run has none"
                raise CheckpointError(message)
            self.teachers[name].load_state_dict(saved)
        for name, saved in state.get("choices", {}).items():  # older states have none
            if hasattr(self.teachers.get(name), "adopt"):
                self.teachers[name].adopt(Choice.from_dict(saved))
        for hook in self.hooks:
            hook.on_epoch_begin(self.epoch)
            if hasattr(hook, "continues"):
                hook.continues()
        self._backend.set_rng_state(state["rng"])

    def _stateful(self) -> list[Any]:
        """The criteria that have a state of their own to save."""
        return [one for one in self.objective.criteria if has_state(one)]


def _chosen(teacher: Any) -> Choice | None:
    """What an ``auto`` of a teacher became, so that a resumed run does not choose again."""
    made: Choice | None = getattr(teacher, "chosen", None)
    return made


def has_state(one: Any) -> bool:
    """Whether a criterion or a teacher has something that a resumed run needs."""
    return hasattr(one, "state_dict") and hasattr(one, "load_state_dict")


def check_state(state: Mapping[str, Any], stateful: int) -> None:
    """CheckpointError where a state can't be one that `Run.state_dict` made for these criteria."""
    version = state.get("version") if isinstance(state, Mapping) else None
    if not isinstance(version, int):
        raise CheckpointError("this is not a state of kdhooks: it has no version")
    if version > STATE_VERSION:
        raise CheckpointError(
            f"this state is of version {version}, and this kdhooks reads up to version {STATE_VERSION}: update kdhooks"
        )
    missing = {"step", "epoch", "steps_in_epoch", "history", "best", "monitor", "criteria", "rng"} - set(state)
    if missing:
        raise CheckpointError(f"this state is damaged: it has no {', '.join(sorted(missing))}")
    if len(state["criteria"]) != stateful:
        raise CheckpointError(
            f"this state holds {len(state['criteria'])} criteria with parameters, and this run has {stateful}: "
            "it belongs to another configuration"
        )
