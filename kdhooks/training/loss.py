"""The final loss: components by name, each with its coefficient, as one criterion of `kdhooks.Distillation`.

``final loss = sum over names of coefficient * component``. ``kd_loss`` is always a component, ``cos_embed_loss`` one
that may be asked for; all others come from the student. Every component needs a coefficient, and every coefficient a
component.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdhooks.criterion import Step, Term
from kdhooks.errors import ModelError, UsageError
from kdhooks.schedules import Constant
from kdhooks.torch.criteria import KnowledgeDistillationLoss
from kdhooks.torch.losses import cosine
from kdhooks.torch.outputs import constant
from kdhooks.training.outputs import as_logits, check_distribution, class_axis, loss_terms, plain_logits

KD_LOSS, COSINE_LOSS, STUDENT_LOSS = "kd_loss", "cos_embed_loss", "student_loss"


class FinalLoss:
    """The criterion; `Distillation` sums and reports its terms.

    Args:
        coefficients: by the names of components.
        temperature: of ``kd_loss``.
        softens: for ``student`` and each teacher by name, whether its forward takes the temperature.
        student_loss: (output, labels) -> a scalar, or a mapping of scalars by name; None adds nothing.

    Attributes:
        coefficients: as given.
    """

    student_label = "none"

    def __init__(
        self,
        coefficients: Mapping[str, float],
        temperature: float,
        softens: Mapping[str, bool],
        student_loss: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self.coefficients, self._temperature = dict(coefficients), float(temperature)
        self._softens, self._student_loss = dict(softens), student_loss
        self._looked: set[str] = set()
        self._losses: dict[str, Tensor] = {}
        self.student_weight = Constant(0.0)
        divergence = KnowledgeDistillationLoss(temperature, ["CE", "KL"], [0.0, 1.0]).terms[0]
        computed: dict[str, Callable[[Step], Tensor]] = {
            KD_LOSS: lambda step: divergence.compute(self._in_logits(step)),
            COSINE_LOSS: self._cosine,
        }
        self.terms = [
            Term(name, Constant(float(value)), computed[name])
            if name in computed
            else Term(name, Constant(float(value)), partial(self._own, name), layer=lambda: None)
            for name, value in self.coefficients.items()
        ]

    @contextmanager
    def of(self, output: Any, labels: Any) -> Iterator[None]:
        """Within the block the losses that came with a student's output are components.

        Args:
            output: what the student returned.
            labels: of the batch, or None.

        Raises:
            ModelError: a component without a coefficient, or the reverse.
            UsageError: `student_loss` needs labels that the batch has not.
        """
        losses = loss_terms(output, self.coefficients)
        for name, value in self._of_labels(output, labels).items():
            if name in losses:
                raise ModelError(f"the student returned the loss {name!r}, and student_loss gives one of that name too")
            losses[name] = value
        self._check_names(losses)
        self._losses = losses
        try:
            yield
        finally:
            self._losses = {}  # which hold the step's graph

    def _of_labels(self, output: Any, labels: Any) -> dict[str, Tensor]:
        if self._student_loss is None:
            return {}
        if labels is None:
            raise UsageError("student_loss compares the student's output with labels, and the batch has none")
        found = self._student_loss(output, labels)
        return loss_terms({"loss": found if isinstance(found, Mapping) else {STUDENT_LOSS: found}})

    def _check_names(self, losses: Mapping[str, Tensor]) -> None:
        for name in losses:
            if name in (KD_LOSS, COSINE_LOSS):
                raise ModelError(f"the student returned the loss {name!r}, which is the name of one computed here")
        components = {KD_LOSS, *losses, *({COSINE_LOSS} & set(self.coefficients))}
        nameless = [name for name in losses if name not in self.coefficients]
        useless = [name for name in self.coefficients if name not in components]
        if not nameless and not useless:
            return
        problems = []
        if nameless:
            problems.append(f"the student returned {_list('the loss', nameless)} without a coefficient")
        if useless:
            problems.append(f"final_loss_coeff_dict has {_list('the coefficient', useless)} without a component")
        raise ModelError(
            f"{'; '.join(problems)}.\n  coefficients: {', '.join(self.coefficients)}\n"
            f"  components: {', '.join([KD_LOSS, COSINE_LOSS, *losses])}\n"
            "  Names must be the same on both sides; a coefficient of 0 leaves a component out."
        )

    def _in_logits(self, step: Step) -> Step:
        """The same step with logits in place of what the models returned."""
        read = partial(self._logits, step.index)
        teachers = {name: constant(read(step.teacher(name), name)) for name in step.names()}
        student = read(step.student_output, "student")
        # labels of another length (of speech, say) belong to no position
        fits = (
            student.ndim < 3 or step.target is None or step.target.shape == student.select(class_axis(student), 0).shape
        )
        target = step.target if fits else None
        return replace(step, student_output=student, teacher_output=teachers, target=target, outputs={})

    def _logits(self, index: int, output: Any, model: str) -> Tensor:
        if model not in self._looked:  # once: it waits for the device
            self._looked.add(model)
            check_distribution(output, model=model)
        return as_logits(output, temperature=self._temperature, softened=self._softens.get(model, False), model=model)

    def _cosine(self, step: Step) -> Tensor:
        student = plain_logits(step.student_output, model="student")
        names = step.names()
        teachers = [constant(plain_logits(step.teacher(name), model=name)) for name in names]
        values = [cosine(student, teacher, mask=step.mask) for teacher in teachers]
        return torch.stack(values).mean() if len(values) > 1 else values[0]

    def _own(self, name: str, step: Step) -> Tensor:
        return self._losses[name]


def _list(what: str, names: list[str]) -> str:
    plural = "" if len(names) == 1 else "es" if what.endswith("s") else "s"
    return f"{what}{plural} {', '.join(map(repr, names))}"
