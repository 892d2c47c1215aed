"""What regularisers towards a starting point share: L2-SP in both backends, DELTA in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from kdhooks.config.finetune_settings import Scheduled
from kdhooks.criterion import Step, Term, Weight
from kdhooks.errors import UsageError
from kdhooks.hooks import Hook
from kdhooks.schedules import Constant, Schedule, parse_schedule

Tensor = Any


class StartingPoint(Hook):
    """A criterion that only adds: a distance to where the student began, and the decay of what was not transferred.

    Args:
        weight: of the distance, a number or a schedule.
        new_weight: of the decay, the same.
        transferred: names of the student's tensors that come from the source; None means all.

    Attributes:
        student_label, student_weight, terms: what a `kdhooks.criterion.Criterion` has.
    """

    name = ""
    only_adds = True
    student_label = "CE"

    def __init__(self, weight: Scheduled, new_weight: Scheduled, transferred: Collection[str] | None = None) -> None:
        self.student_weight: Weight = Constant(0.0)
        self.transferred = transferred
        self._weight = parse_schedule(weight, at_least=0.0)
        self._model: Any = None
        decay = parse_schedule(new_weight, at_least=0.0)
        self.terms: Sequence[Term] = (
            Term(self.name, self.scheduled(self._weight), self.value, layer=lambda: None),
            Term(f"{self.name}.new", self.scheduled(decay), self.decay, layer=lambda: None),
        )

    def scheduled(self, schedule: Schedule) -> Callable[[Any], Any]:
        """A schedule that takes the steps of this backend."""
        return schedule

    def value(self, step: Step) -> Tensor:
        """How far from the starting point, a scalar."""
        raise NotImplementedError

    def decay(self, step: Step) -> Tensor:
        """Half the squared norm of what was not transferred."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """What was transferred: a run that goes on transfers nothing."""
        return {"transferred": None if self.transferred is None else sorted(self.transferred)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what was transferred."""
        given = state.get("transferred")
        self.transferred = None if given is None else frozenset(given)

    def _is_transferred(self, name: str) -> bool:
        return self.transferred is None or name in self.transferred

    def _student(self) -> Any:
        if self._model is None:
            raise UsageError(f"{self.name} has no student yet: it is computed in a run, after on_train_begin()")
        return self._model
