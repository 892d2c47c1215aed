"""Runs both models on a few batches and takes the loss apart into its terms."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.check import ModelFacts, Observation, TermFacts
from kdhooks.criterion import Criterion, Objective, Step, Term, teachers_by_name
from kdhooks.hooks import HookList
from kdhooks.loop.batches import Batch
from kdhooks.pairs.bound import Bound
from kdhooks.torch.losses import TARGET_LOSSES
from kdhooks.torch.observation.batches import SeenData, loader_of, parts_of, same_batch
from kdhooks.torch.observation.models import model_facts, optimizer_facts, teacher_facts
from kdhooks.torch.observation.seen import SeenModel, SeenTerm, View
from kdhooks.torch.observation.untouched import untouched
from kdhooks.torch.outputs import as_call, logits_of, map_tensors, moved
from kdhooks.torch.postprocess import build_postprocess
from kdhooks.torch.student_loss import build_student_loss
from kdhooks.torch.taps import Taps

_PROBED_STEPS = (100, 1_000, 10_000, 100_000)


def observe(distiller: Any, dataloader: Any, batches: int) -> Observation:
    """Look at both models and the first batches; everything is afterwards as it was before.

    Args:
        distiller: a `Distillation` with a student.
        dataloader: None takes the distiller's or the YAML's.
        batches: how many to look at.

    Raises:
        UsageError: there are no batches to look at.
        DataError: a batch has a form that `fit()` would not take either.
    """
    from kdhooks.torch.backend import BACKEND, unwrap

    loader = loader_of(distiller, dataloader)
    student = unwrap(distiller.student_model)
    teachers = {name: unwrap(model) for name, model in teachers_by_name(distiller.teacher_model).items()}
    criteria = distiller.summed(of_target=False)
    # those that look inside of models are in use where a run is under way, so copies of them look here
    criteria = tuple(copy.deepcopy(one) if hasattr(one, "bind") else one for one in criteria)
    with untouched([student, *teachers.values()], loader, BACKEND):
        look = _Look(student, teachers, criteria, distiller)
        with BACKEND.evaluation_mode(student), look.attached(BACKEND):
            first = None
            for number, raw in enumerate(islice(loader, batches)):
                first = raw if number == 0 else first
                look.batch(number, parts_of(raw, distiller), of=batches)
        repeats = None if first is None else same_batch(first, next(iter(loader), None), distiller)
    iterations = distiller.conf.settings.distillation.train.iteration
    return Observation(
        student=look.student.facts(),
        teachers=tuple(teacher.facts() for teacher in look.teachers.values()),
        data=look.data.facts(loader, iterations, repeats),
        terms=look.terms(),
        step=look.step,
        optimizer=optimizer_facts(distiller.optimizer, student, teachers),
    )


class _Look:
    """What has been seen so far."""

    def __init__(
        self, student: nn.Module, teachers: Mapping[str, nn.Module], criteria: Sequence[Criterion], distiller: Any
    ) -> None:
        self._model, self._models = student, teachers
        self._conf = distiller.conf
        self._running: Mapping[str, Any] = {}
        first = criteria[0]
        self.axis: int | None = getattr(first, "axis", None)
        self.keys: Sequence[str] = getattr(first, "outputs", ())
        self.data = SeenData(getattr(first, "ignore_index", None))
        self.student = SeenModel(model_facts("student", student))
        self.teachers = {name: SeenModel(teacher_facts(name, model, student)) for name, model in teachers.items()}
        self._inside: list[Any] = [criterion for criterion in criteria if hasattr(criterion, "bind")]
        self._objective = Objective(criteria)
        weights = [criterion.student_weight for criterion in criteria]
        named = list(zip(_owners(criteria), self._objective._terms, strict=True))
        self.step = _telling_step(distiller.step, self._objective._terms)
        self._own = SeenTerm(
            self._objective.student_label, sum(weight(self.step) for weight in weights), of_student=True
        )
        self._postprocess = build_postprocess(self._conf.settings.distillation.train.postprocess)
        label = self._objective.student_label
        self._loss = build_student_loss(self._conf, label, self._postprocess) if label in TARGET_LOSSES else None
        self._terms = [SeenTerm.of(term, owner, self.step) for owner, term in named]
        self._alone = [not getattr(owner, "needs_teacher", True) for owner, _ in named]
        place = next(iter(student.parameters()), None)
        self._move = moved(place.device, None) if place is not None else None

    @contextmanager
    def attached(self, backend: Any) -> Iterator[None]:
        """Within the block the teachers run as they do in training."""
        self._running = {
            name: hook
            for name, hook in backend.teachers(self._models, self._model, self._conf).items()
            if name not in self.teachers or not self.teachers[name].broken
        }
        hooks = HookList()
        for hook in self._running.values():
            hooks.begin(hook)
        bound = Bound(Taps(self._model), self._running, trains=False)
        try:
            for criterion in self._inside:
                if getattr(criterion, "needs_teacher", True) and not self._running:
                    continue
                criterion.bind(bound)
                hooks.begin(criterion)
            yield
        finally:
            hooks.end()

    def batch(self, number: int, batch: Batch, *, of: int) -> None:
        """One more batch."""
        if self._move is not None:
            batch = Batch(*(map_tensors(self._move, part) for part in _fields(batch)))
        view = View(batch, self._postprocess, self.axis, self.keys, of)
        args, kwargs = as_call(batch.input)

        def forward() -> Any:
            with torch.set_grad_enabled(bool(self._inside)):  # hidden features are captured with their graph
                return self._model(*args, **kwargs)

        output = self.student.run(number, view, forward)
        self.data.add(batch, view.target)
        step = Step(
            self.step, batch.input, output, batch.teacher_output, batch.target, batch.mask, teachers=self._running
        )
        for name in step.names() if self._running or batch.teacher_output is not None else ():
            seen = self.teachers.setdefault(name, SeenModel(ModelFacts(name, kind="(handed in)")))
            seen.run(number, view, lambda name=name: step.teacher(name), name)  # type: ignore[misc]
        if output is None or any(self.teachers[name].broken for name in self.teachers):
            return
        self._take_apart(number, step, logits_of(output, self.keys), view)

    def _take_apart(self, number: int, step: Step, logits: Tensor, view: View) -> None:
        leaf = logits.detach().clone().requires_grad_()
        step.student_output = _with_logits(step.student_output, logits, leaf)
        if self._loss is not None and step.target is not None and view.labels_fit(logits):
            loss = self._loss
            self._own.add(number, leaf, lambda: loss(step.student_output, step.target, step.mask), quiet=True)
        taught = bool(self._running) or step.teacher_output is not None
        for seen, term, alone in zip(self._terms, self._objective._terms, self._alone, strict=True):
            if seen.facts.weight and (taught or alone):
                seen.add(number, leaf, lambda term=term: term.compute(step))  # type: ignore[misc]
        for criterion in self._inside:
            criterion.on_after_compute_loss()

    def terms(self) -> tuple[TermFacts, ...]:
        """The loop's own loss, then the terms."""
        return tuple(seen.mean() for seen in (self._own, *self._terms))


def _owners(criteria: Sequence[Criterion]) -> list[Criterion]:
    return [criterion for criterion in criteria for _ in criterion.terms]


def _telling_step(now: int, terms: Sequence[Term]) -> int:
    """A step at which every term has a weight, since a schedule may begin with 0; else the present one."""
    for step in (now, *(now + later for later in _PROBED_STEPS)):
        if all(term.weight(step) != 0 for term in terms):
            return step
    return now


def _fields(batch: Batch) -> tuple[Any, ...]:
    return batch.input, batch.target, batch.mask, batch.sample_ids, batch.teacher_output


def _with_logits(output: Any, logits: Tensor, leaf: Tensor) -> Any:
    """A model's output with its logits replaced by `leaf`."""
    if isinstance(output, (Tensor, Mapping, tuple, list)):
        return map_tensors(lambda tensor: leaf if tensor is logits else tensor, output)
    twin = copy.copy(output)
    for name, value in list(vars(output).items()):
        if value is logits:
            setattr(twin, name, leaf)
    return twin
