"""Criteria: the terms that join the user's loss, with their weights and temperatures."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import tensorflow as tf

from kdhooks.config import DistillationConf
from kdhooks.config.model import Named, Schedulable
from kdhooks.criterion import Criterion, Step, Term, check_balance
from kdhooks.errors import UsageError
from kdhooks.losses.configured import check_options
from kdhooks.pairs.options import named_loss
from kdhooks.schedules import parse_schedule
from kdhooks_tf.balance import gradient_ratio
from kdhooks_tf.losses import LOSSES, check_shapes, logit_loss
from kdhooks_tf.losses.table import TABLES
from kdhooks_tf.outputs import constant, logits_of, tensor_of
from kdhooks_tf.weighing import scheduled, weigh, without_branch

Combine = Literal["losses", "logits", "probabilities"]
Tensor = Any


class KnowledgeDistillationLoss:
    """The student follows the teacher's logits (Hinton, Vinyals & Dean 2015).

    ``w[0] * student_loss + sum over i of w[i] * loss_i(student_logits, teacher_logits, T)``, where
    `student_loss` is the loop's own and is never recomputed.

    On the replicas of a `tf.distribute` strategy losses are shares, which add up to the loss of the global
    batch: hand in `student_loss` as a Keras loss gives it there, divided by the number of replicas, or as
    `tf.nn.compute_average_loss` does. The terms are divided by the number of replicas as well, and the sum of
    the totals is one device's. Components and their means are those of the global batch.
    Replicas with fewer rows than others weigh as much as these, as in Keras.

    Args:
        temperature: T, a number or a schedule; terms that soften are multiplied by T².
        loss_types: the first names the loop's own loss; each other is a loss of
            `kdhooks_tf.losses.LOSSES`: KL, CE (soft labels), MSE, JSD, reverse_KL, hard_label, L1, or
            one that was registered; with options as in ``{"dkd": {"beta": 4.0}}``.
        loss_weights: one for each of `loss_types`, numbers or schedules.
        axis: the class axis; None is the last one.
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
            student's logits is as long as that of the loop's own loss; in a `tf.function` only.
        from_logits: False where the models return probabilities, whose logarithms then are the logits.
        teacher_from_logits: the same of the teachers, where it differs from the student's.

    Raises:
        UsageError: an unknown loss, or lists of different lengths.

    Example:
        >>> import tensorflow as tf
        >>> criterion = KnowledgeDistillationLoss(temperature=4.0, loss_types=["CE", "KL"], loss_weights=[0.1, 0.9])
        >>> logits = tf.random.stateless_normal([8, 10], seed=[1, 2])
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
        from_logits: bool = True,
        teacher_from_logits: bool | None = None,
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
        self.from_logits = from_logits
        self.teacher_from_logits = from_logits if teacher_from_logits is None else teacher_from_logits
        self._temperature = scheduled(parse_schedule(temperature, above=0.0))
        self._teacher_weights = _weights(teacher_weights)
        self.student_label = self.loss_types[0]
        self.student_weight = scheduled(parse_schedule(loss_weights[0]))
        self.terms: Sequence[Term] = tuple(
            Term(
                LOSSES.name(kind) or kind,
                self._weight(scheduled(parse_schedule(weight)), balance),
                self._computing(kind, logit_loss(kind, **options)),
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
        sample_weight: Tensor | None = None,
        step: Any = 0,
    ) -> Tensor:
        """The weighted sum of the teacher's terms alone, a scalar; for a loop without hooks.

        Args:
            student_output: logits, or an output that holds them.
            teacher_output: the same of the teacher, or a list or mapping of several.
            target: labels of the positions, to leave out those of `ignore_index`.
            mask: positions that count.
            sample_weight: a factor for each row or position.
            step: for schedules.
        """
        if any(term.balance is not None for term in self.terms):
            raise UsageError("balance compares with the loop's own loss, which only a Distillation is handed")
        given = Step(step, None, student_output, teacher_output, target, mask, sample_weight=sample_weight)
        total = None
        for term in self.terms:
            factor = term.weight(step)
            if tf.is_tensor(factor) or factor != 0:
                weighted = weigh(factor, lambda term=term: term.compute(given))[1]  # type: ignore[misc]
                total = weighted if total is None else total + weighted
        return tf.zeros((), logits_of(student_output, self.outputs).dtype) if total is None else total

    def _weight(self, weight: Callable[[Any], Any], balance: str | None) -> Callable[[Any], Any]:
        """The weight of a term; 0 also where every teacher has weight 0."""
        if balance is not None:
            return without_branch(self._weight(weight, None))
        shares = self._teacher_weights
        if shares is None:
            return weight
        schedules = list(shares.values()) if isinstance(shares, dict) else shares

        def at(step: Any) -> Any:
            factors = [share(step) for share in schedules]
            total = sum(factors)
            if tf.is_tensor(total):
                return tf.where(total > 0, tf.cast(weight(step), tf.float64), tf.zeros((), tf.float64))
            return weight(step) if total else 0.0

        return at

    def _computing(self, name: str, loss: Callable[..., Tensor]) -> Callable[[Step], Tensor]:
        taken = inspect.signature(loss).parameters
        weighable = "sample_weight" in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values())

        def compute(step: Step) -> Tensor:
            student = logits_of(step.student_output, self.outputs, from_logits=self.from_logits)
            axis = -1 if self.axis is None else self.axis
            temperature = self._temperature_at(step.index, student)
            options: dict[str, Any] = {"temperature": temperature, "target": step.target, "axis": axis}
            if step.sample_weight is not None:
                if not weighable:
                    raise UsageError(
                        f"the loss {name!r} takes no sample_weight: give it such an argument, or none here"
                    )
                options["sample_weight"] = step.sample_weight

            def against(teacher: Tensor) -> Tensor:
                mask = self._mask(step, student)
                for other in step.outputs:  # what a stored output lacks is known once it is there
                    mask = step.counted(mask, other)
                return loss(student, teacher, **options, mask=mask)

            return self._combined(step, student, against, temperature, axis)

        return compute

    def _combined(
        self, step: Step, student: Tensor, against: Callable[[Tensor], Tensor], temperature: Any, axis: int
    ) -> Tensor:
        shares = self._shares(step.names(self.outputs), step.index)
        used = [(share, name) for name, share in shares.items() if tf.is_tensor(share) or share != 0]
        teachers = [(share, self._teacher(step, name)) for share, name in used]
        if len(teachers) == 1:
            return against(teachers[0][1])
        for _, teacher in teachers:
            check_shapes(student, teacher)  # before the mean over teachers can broadcast
        if self.combine == "losses":
            return _sum([weigh(share, lambda one=one: against(one))[1] for share, one in teachers])  # type: ignore[misc]
        if self.combine == "logits":
            return against(_sum([_scaled(share, teacher) for share, teacher in teachers]))
        return against(_mean_distribution(teachers, temperature, axis))

    def _temperature_at(self, index: Any, student: Tensor) -> Any:
        temperature = self._temperature(index)
        if tf.is_tensor(temperature):  # of a schedule, whose numbers are known to be above 0
            return tf.cast(temperature, tf.float64 if student.dtype == tf.float64 else tf.float32)
        if temperature <= 0:
            raise UsageError(f"the temperature must be above 0, and is {temperature} at step {index}")
        return temperature

    def _ratio(self, step: Step, student_loss: Tensor, value: Tensor) -> Tensor:
        return gradient_ratio(student_loss, value, tensor_of(step.student_output, self.outputs), "the student's logits")

    def _teacher(self, step: Step, name: str) -> Tensor:
        output = step.teacher(name)
        return constant(logits_of(output, self.outputs, model=name, from_logits=self.teacher_from_logits))

    def _mask(self, step: Step, student: Tensor) -> Tensor | None:
        mask: Tensor | None = step.mask
        if self.ignore_index is None or not tf.is_tensor(step.target) or student.shape.rank in (None, 1, 2):
            return mask
        if step.target.dtype.is_floating or step.target.shape.rank != student.shape.rank - 1:
            return mask
        counted: Tensor = step.target != self.ignore_index
        if mask is None or not mask.shape.is_compatible_with(counted.shape):  # the loss says what shape it must have
            return counted if mask is None else mask
        return counted & tf.cast(mask, tf.bool)

    def _shares(self, names: Sequence[str], step: Any) -> dict[str, Any]:
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
    if named.name == "LargeVocabularyDistillationLoss":
        raise conf.problem(named.path, f"{named.name} is for PyTorch, and the models are Keras models", of_key=True)
    check_options(named, conf, TABLES)
    if named.name == "KnowledgeDistillationLoss":
        return KnowledgeDistillationLoss(**named.options, outputs=outputs)
    kind: Any
    if named.name == "SelfKnowledgeDistillationLoss":
        from kdhooks_tf.self_distillation import SelfKnowledgeDistillationLoss as kind
    else:
        from kdhooks_tf.intermediate import IntermediateLayersKnowledgeDistillationLoss as kind
    criterion: Any = kind(**named.options)
    criterion.locate = lambda path, message, advice: conf.problem(f"{named.path}.{path}", message, advice)
    made: Criterion = criterion
    return made


def _weights(
    given: Sequence[Schedulable] | Mapping[str, Schedulable] | None,
) -> list[Callable[[Any], Any]] | dict[str, Callable[[Any], Any]] | None:
    if given is None:
        return None
    if isinstance(given, Mapping):
        return {name: scheduled(parse_schedule(weight, at_least=0.0)) for name, weight in given.items()}
    return [scheduled(parse_schedule(weight, at_least=0.0)) for weight in given]


def _sum(values: Sequence[Tensor]) -> Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _scaled(share: Any, teacher: Tensor) -> Tensor:
    """A share of a teacher's logits, of which nothing is left at a share of 0, whatever they are."""
    if not tf.is_tensor(share):
        return share * teacher
    return tf.where(share > 0, tf.cast(share, teacher.dtype) * teacher, tf.zeros_like(teacher))


def _mean_distribution(teachers: Sequence[tuple[Any, Tensor]], temperature: Any, axis: int) -> Tensor:
    """Logits whose softmax at T is the weighted mean of the teachers' softened distributions.

    T log p, with log p taken by a log-sum-exp so that no probability rounds to 0 first.
    """
    dtype = tf.float64 if teachers[0][1].dtype == tf.float64 else tf.float32

    def part(share: Any, logits: Tensor) -> Tensor:
        softened = tf.nn.log_softmax(tf.cast(logits, dtype) / temperature, axis)
        if not tf.is_tensor(share):
            return softened + math.log(share)
        lowest = tf.fill(tf.shape(softened), tf.constant(-math.inf, dtype))
        return tf.where(share > 0, softened + tf.cast(tf.math.log(share), dtype), lowest)

    return tf.reduce_logsumexp(tf.stack([part(share, logits) for share, logits in teachers]), 0) * temperature
