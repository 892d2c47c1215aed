"""What takes part in a distillation: the models, the criterion, the data and functions that a user sets.

The first model that is set decides the framework; nothing is imported before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdhooks import messages
from kdhooks.backend import Backend, backend_of, framework_of, load_backend
from kdhooks.config import DistillationConf
from kdhooks.criterion import as_criteria, teachers_by_name
from kdhooks.errors import ModelError, UsageError
from kdhooks.run import Run
from kdhooks.speed import Choice
from kdhooks.transfer import Transferred


class Participants:
    """The part of `kdhooks.Distillation` that a user sets; see there.

    Attributes:
        writes_files: whether `fit()` writes checkpoints and curves into the run's folder.
        ends_early: whether the built-in loop may end the student's forward at the deepest layer that its loss looks
            at, where the loop's own loss does not count.
        student_choice: how the built-in loop runs the student, where an ``auto`` leaves that to us; known once it has
            begun, or set before from an earlier run.
    """

    writes_files = True
    ends_early = False
    student_choice: Choice | None = None
    _pending_state: Mapping[str, Any] | None = None  # a saved run that the next one goes on with

    def __init__(
        self,
        conf: str | Path | Mapping[str, Any] | DistillationConf | None = None,
        *,
        student_model: Any = None,
        teacher_model: Any = None,
    ) -> None:
        self.conf = conf if isinstance(conf, DistillationConf) else DistillationConf(conf)
        self.pretrained_model: Any = None
        self.optimizer: Any = None
        self.train_dataloader: Any = None
        self.eval_dataloader: Any = None
        self.target_dataloader: Any = None
        self.target_eval_dataloader: Any = None
        self.train_func: Callable[[Any], object] | None = None
        self.eval_func: Callable[[Any], object] | None = None
        self._backend: Backend | None = None
        self._student: Any = None
        self._teacher: Any = None
        self._criterion: Any = None
        self._run: Run | None = None
        self._transferred: Transferred | None = None
        if student_model is not None:
            self.student_model = student_model
        if teacher_model is not None:
            self.teacher_model = teacher_model

    @property
    def student_model(self) -> Any:
        """The model that learns; set by the user."""
        return self._student

    @student_model.setter
    def student_model(self, model: Any) -> None:
        self._decide_framework(model, "student")
        self._student = model

    def transfer_now(self) -> None:
        """Give the student the weights that ``finetune`` or `pretrained_model` name, before training begins."""
        finetuning = self.backend.finetuning(self, self._transferred, self._pending_state is not None)
        if finetuning is not None:
            self._transferred = finetuning.done

    @contextmanager
    def standing_in(self, model: Any) -> Iterator[None]:
        """Within the block another model is the student, with the same weights and what was transferred into them."""
        own, self._student = self._student, model
        self._transferred_to(model)
        try:
            yield
        finally:
            self._student = own
            self._transferred_to(own)

    def _transferred_to(self, student: Any) -> None:
        if self._transferred is not None:
            self._transferred = replace(self._transferred, student=student)

    @property
    def teacher_model(self) -> Any:
        """The model, or the list or mapping of models, that the student learns from; set by the user."""
        return self._teacher

    @teacher_model.setter
    def teacher_model(self, model: Any) -> None:
        for name, one in teachers_by_name(model).items():
            self._decide_framework(one, name)
        self._teacher = model

    @property
    def criterion(self) -> Any:
        """The criterion, or list of criteria: what was set, or the YAML's once training has begun."""
        if self._criterion is not None or self._run is None:
            return self._criterion
        criteria = self._run.objective.criteria
        return criteria[0] if len(criteria) == 1 else list(criteria)

    @criterion.setter
    def criterion(self, value: Any) -> None:
        if value is not None:
            as_criteria(value)
        self._criterion = value

    def summed_criteria(self) -> tuple[Any, ...]:
        """The criteria of the run that is under way; none where there is none."""
        return () if self._run is None else self._run.objective.criteria

    def leave_out_own_loss(self) -> None:
        """The loop does not compute its own loss in the run that is under way, since its weight is 0."""
        if self._run is not None:
            self._run.objective.names_own_loss = False

    @property
    def backend(self) -> Backend:
        """The framework's side; UsageError until a model is set or the YAML names a framework."""
        if self._backend is None:
            framework = self.conf.settings.model.framework
            if framework is None:
                raise UsageError("no model is set yet: distiller.student_model = ... comes first")
            self._backend = load_backend(framework)
            messages.ask_rank(self._backend.rank)
        return self._backend

    def first_bad(self) -> tuple[int, str] | None:
        """Step and component of the first loss that was NaN or infinite; waits for the device."""
        return None if self._run is None else self._run.monitor.first_bad()

    def explain_bad(self, component: str) -> str | None:
        """Why a component was NaN or infinite, where that is known: a teacher's layer."""
        return None if self._run is None else self._run.explain(component)

    def _decide_framework(self, model: Any, what: str) -> None:
        backend = backend_of(model)
        named = self.conf.settings.model.framework
        if named is not None and named != backend.name:
            message = f"the {what} is a {backend.name} model, {type(model).__name__}"
            raise self.conf.problem("model.framework", message, f"Write framework: {backend.name}, or leave it out.")
        if self._backend is not None and self._backend is not backend:
            raise ModelError(f"the {what} is a {framework_of(model)} model, and the other model is not")
        self._backend = backend
        messages.ask_rank(backend.rank)
