"""Criteria: the terms that join the user's loss, with their weights and temperatures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kdhooks.config import DistillationConf
from kdhooks.config.model import Named, Schedulable
from kdhooks.criterion import Criterion, Step, Term, check_balance
from kdhooks.errors import UsageError
from kdhooks.losses.configured import check_options
from kdhooks.pairs.options import named_loss
from kdhooks.schedules import parse_schedule
from kdhooks.torch.balance import gradient_ratio
from kdhooks.torch.intermediate import IntermediateLayersKnowledgeDistillationLoss
from kdhooks.torch.large_vocabulary import LargeVocabularyDistillationLoss
from kdhooks.torch.losses import LOSSES, check_shapes, logit_loss
from kdhooks.torch.losses.table import TABLES
from kdhooks.torch.outputs import constant, logits_of
from kdhooks.torch.self_distillation import SelfKnowledgeDistillationLoss

Combine = Literal["losses", "logits", "probabilities"]


class KnowledgeDistillationLoss:
    """The student follows the teacher's logits (Hinton, Vinyals & Dean 2015).

    ``w[0] * student_loss + sum over i of w[i] * loss_i(student_logits, teacher_logits, T)``, where
    `student_loss` is the loop's own and is never recomputed.

    Args:
        temperature: T, a number or a schedule; terms that soften are multiplied by T².
        loss_types: the first names the loop's own loss; each other is a loss of
            `kdhooks.torch.losses.LOSSES`: KL, CE (soft labels), MSE, JSD, reverse_KL, hard_label, L1, dkd, dist
            and more, or one that was registered; with options as in ``{"dkd": {"beta": 4.0}}``.
        loss_weights: one for each of `loss_types`, numbers or schedules.
        axis: the class axis; None is 1 for logits of four or more axes, [N, C, H, W], and the last one
            otherwise, [N, C] and [N, T, C].
        ignore_index: tokens and pixels with this label don't count, where `target` is handed in.
            Rows of [N, C] count whatever their label: an unlabelled sample still has a teacher. None
            leaves out nothing.
        teacher_weights: of several teachers, as a list in their order or a mapping by name; numbers or
            schedules, divided by their sum; None weighs all alike.
        combine: with several teachers, ``losses`` takes the weighted mean of the losses, ``logits`` the
            loss for the weighted mean of the logits, ``probabilities`` the loss for the weighted mean
            of the softened distributions.
        outputs: keys or attributes in which a model's output holds its logits.
        balance: ``gradient`` multiplies each weight of a teacher's term so that, at weight 1, its gradient on the
            student's logits is as long as that of the loop's own loss.

    Raises:
        UsageError: an unknown loss or option, or lists of different lengths.

    Example:
        >>> import torch
        >>> criterion = KnowledgeDistillationLoss(temperature=4.0, loss_types=["CE", "KL"], loss_weights=[0.1, 0.9])
        >>> logits = torch.randn(8, 10)
        >>> float(criterion(logits, logits))
        0.0
    """

    def __init__(
        self,
        temperature: Schedulable = 1.0,
        loss_types: Sequence[str | Mapping[str, Any]] = ("CE", "KL"),
        loss_weights: Sequence[Schedulable] = (0.5, 0.5),
        *,
        axis: int | None = None,
        ignore_index: int | None = -100,
        teacher_weights: Sequence[Schedulable] | Mapping[str, Schedulable] | None = None,
        combine: Combine = "losses",
        outputs: Sequence[str] = (),
        balance: str | None = None,
    ) -> None:
        if len(loss_types) != len(loss_weights) or not loss_types:
            raise UsageError(
                f"loss_types and loss_weights must be of one length: {len(loss_types)} types, "
                f"{len(loss_weights)} weights"
            )
        if combine not in ("losses", "logits", "probabilities"):
            raise UsageError(f"combine must be 'losses', 'logits' or 'probabilities', not {combine!r}")
        losses = [named_loss(one) for one in loss_types]
        if losses[0][1]:
            raise UsageError(
                f"the first of loss_types, {losses[0][0]}, names the loop's own loss, which has no options"
            )
        self.loss_types = tuple(name for name, _ in losses)
        self.axis, self.ignore_index, self.combine, self.outputs = axis, ignore_index, combine, tuple(outputs)
        self._temperature = parse_schedule(temperature, above=0.0)
        self._teacher_weights = _weights(teacher_weights)
        self.student_label = self.loss_types[0]
        self.student_weight = parse_schedule(loss_weights[0])
        self.terms: Sequence[Term] = tuple(
            Term(
                LOSSES.name(kind) or kind,
                self._weight(parse_schedule(weight)),
                self._computing(logit_loss(kind, **options)),
                balance=self._ratio if check_balance(balance) else None,
            )
            for (kind, options), weight in zip(losses[1:], loss_weights[1:], strict=True)
        )

    def __call__(
        self,
        student_output: Any,
        teacher_output: Any,
        *,
        target: Tensor | None = None,
        mask: Tensor | None = None,
        step: int = 0,
    ) -> Tensor:
        """The weighted sum of the teacher's terms alone, a scalar; for a loop without hooks.

        Args:
            student_output: logits, or an output that holds them.
            teacher_output: the same of the teacher, or a list or mapping of several.
            target: labels of the positions, to leave out those of `ignore_index`.
            mask: positions that count.
            step: for schedules.
        """
        if any(term.balance is not None for term in self.terms):
            raise UsageError("balance compares with the loop's own loss, which only a Distillation is handed")
        given = Step(step, None, student_output, teacher_output, target, mask)
        total = logits_of(student_output, self.outputs).new_zeros(())
        for term in self.terms:
            weight = term.weight(step)
            if weight != 0:
                total = total + weight * term.compute(given)
        return total

    def _weight(self, weight: Callable[[int], float]) -> Callable[[int], float]:
        """The weight of a term; 0 also where every teacher has weight 0."""
        shares = self._teacher_weights
        if shares is None:
            return weight
        schedules = list(shares.values()) if isinstance(shares, dict) else shares
        return lambda step: weight(step) if any(share(step) for share in schedules) else 0.0

    def _computing(self, loss: Callable[..., Tensor]) -> Callable[[Step], Tensor]:
        def compute(step: Step) -> Tensor:
            student = logits_of(step.student_output, self.outputs)
            axis = self.axis if self.axis is not None else 1 if student.ndim >= 4 else -1
            temperature = self._temperature(step.index)
            if temperature <= 0:
                raise UsageError(f"the temperature must be above 0, and is {temperature} at step {step.index}")

            def against(teacher: Tensor) -> Tensor:
                return loss(student, teacher, temperature=temperature, target=step.target, mask=mask, axis=axis)

            shares = self._shares(step.names(self.outputs), step.index)
            names = [name for name, share in shares.items() if share != 0]
            teachers = [(shares[name], self._teacher(step, name)) for name in names]
            mask = self._mask(step, student, axis)
            for name in names:
                mask = step.counted(mask, name)
            if len(teachers) == 1:
                return against(teachers[0][1])
            for _, teacher in teachers:
                check_shapes(student, teacher)  # before the mean over teachers can broadcast
            if self.combine == "losses":
                return _sum([share * against(teacher) for share, teacher in teachers])
            if self.combine == "logits":
                return against(_sum([share * teacher for share, teacher in teachers]))
            return against(_mean_distribution(teachers, temperature, axis))

        return compute

    def _ratio(self, step: Step, student_loss: Tensor, value: Tensor) -> Tensor:
        logits = logits_of(step.student_output, self.outputs)
        return gradient_ratio(student_loss, value, [logits] if logits.requires_grad else [], "the student's logits")

    def _teacher(self, step: Step, name: str) -> Tensor:
        return constant(logits_of(step.teacher(name), self.outputs, model=name))

    def _mask(self, step: Step, student: Tensor, axis: int) -> Tensor | None:
        mask: Tensor | None = step.mask
        if self.ignore_index is None or not isinstance(step.target, Tensor) or student.ndim < 3:
            return mask
        if step.target.is_floating_point() or step.target.ndim != student.ndim - 1:
            return mask
        counted: Tensor = step.target != self.ignore_index
        if mask is None or mask.shape != counted.shape:  # the loss says what shape it must have
            return counted if mask is None else mask
        return counted & mask.to(counted.device, torch.bool)

    def _shares(self, names: Sequence[str], step: int) -> dict[str, float]:
        given = self._teacher_weights
        if given is None:
            return dict.fromkeys(names, 1 / len(names))
        if isinstance(given, dict):
            if set(given) != set(names):
                raise UsageError(f"teacher_weights names {', '.join(given)}; the teachers are {', '.join(names)}")
            shares = {name: given[name](step) for name in names}
        else:
            if len(given) != len(names):
                raise UsageError(f"teacher_weights has {len(given)} weights for {len(names)} teachers")
            shares = {name: weight(step) for name, weight in zip(names, given, strict=True)}
        total = sum(shares.values())
        return {name: share / total for name, share in shares.items()}


def build_criterion(named: Named, conf: DistillationConf, outputs: Sequence[str]) -> Criterion:
    """The criterion of a name that ``distillation.train.criterion`` has.

    Raises:
        KDHooksError: its options don't fit together.
    """
    check_options(named, conf, TABLES)
    if named.name == "KnowledgeDistillationLoss":
        options = {key: value for key, value in named.options.items() if not key.endswith("from_logits")}
        if False in (named.options.get("from_logits"), named.options.get("teacher_from_logits")):
            raise UsageError("from_logits: false is for TensorFlow; what a PyTorch model returns is taken for logits")
        return KnowledgeDistillationLoss(**options, outputs=outputs)
    made = _TAPPING[named.name](**named.options)
    made.locate = lambda path, message, advice: conf.problem(f"{named.path}.{path}", message, advice)
    criterion: Criterion = made
    return criterion


_TAPPING: dict[str, type[Any]] = {
    "IntermediateLayersKnowledgeDistillationLoss": IntermediateLayersKnowledgeDistillationLoss,
    "LargeVocabularyDistillationLoss": LargeVocabularyDistillationLoss,
    "SelfKnowledgeDistillationLoss": SelfKnowledgeDistillationLoss,
}


def _weights(
    given: Sequence[Schedulable] | Mapping[str, Schedulable] | None,
) -> list[Callable[[int], float]] | dict[str, Callable[[int], float]] | None:
    if given is None:
        return None
    if isinstance(given, Mapping):
        return {name: parse_schedule(weight, at_least=0.0) for name, weight in given.items()}
    return [parse_schedule(weight, at_least=0.0) for weight in given]


def _sum(values: Sequence[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _mean_distribution(teachers: Sequence[tuple[float, Tensor]], temperature: float, axis: int) -> Tensor:
    """Logits whose softmax at T is the weighted mean of the teachers' softened distributions.

    T log p, with log p taken by a log-sum-exp so that no probability rounds to 0 first.
    """
    dtype = torch.promote_types(teachers[0][1].dtype, torch.float32)
    parts = [(logits.to(dtype) / temperature).log_softmax(axis) + math.log(share) for share, logits in teachers]
    return torch.stack(parts).logsumexp(0) * temperature
