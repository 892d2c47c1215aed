"""Terms, weights and the named components of a loss: weighing and summing, apart from any formula.

Framework-free: a loss value is whatever the backend's tensors are; here they are only multiplied by
numbers and added. A term of weight 0 is never computed, so it can neither cost nor spoil anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from numbers import Real
from typing import Any, Protocol, runtime_checkable

from kdhooks.errors import ModelError, UsageError
from kdhooks.ledger import OFF, Ledger
from kdhooks.names import fold
from kdhooks.schedules import Constant

Tensor = Any
Weight = Callable[[int], float]


@dataclass(slots=True)
class Step:
    """What the user's loop hands in for one step, and the teachers' outputs once they are asked for.

    Attributes:
        index: the number of the step, as schedules count.
        input: the student's input, as the user's loop passed it.
        student_output: what the student returned.
        teacher_output: handed in by the caller, or None.
        target: labels, for terms that look at them.
        mask: positions that count.
        teacher_input: the teacher's own input where it differs from the student's.
        target_input: the target domain's batch, for domain adaptation.
        target_labels: its labels, where rows have some.
        sample_ids: one key a row, for stored outputs.
        sample_weight: a factor for each row or position, or None.
        feature_mask: positions of hidden features that count, for pairs that name no mask of their own.
        scale: a factor of every term, and one of terms on hidden features; None is 1.
        teachers: runs one teacher by name, or says why it can't; each result is kept in `outputs`.
        outputs: the teachers' outputs of this step by name.
        whole: whether a term looks at the teacher's output at this step.
        layers: the teacher's layers that terms look at, as the backend calls them.
        captured: what the backend captured of these layers, by teacher.
        held: by teacher and layer (None: its output) what takes positions that a stored output lacks out of a mask.
        ledger: times the parts of the step.
    """

    index: int
    input: Any
    student_output: Any
    teacher_output: Any = None
    target: Any = None
    mask: Any = None
    teacher_input: Any = None
    sample_ids: Any = None
    sample_weight: Any = None
    target_input: Any = None
    target_labels: Any = None
    feature_mask: Any = None
    scale: tuple[Any, Any] | None = None
    teachers: Mapping[str, Any] = field(default_factory=dict)
    outputs: dict[str, Any] = field(default_factory=dict)
    whole: bool = True
    layers: frozenset[Any] = frozenset()
    captured: dict[str, Any] = field(default_factory=dict)
    held: dict[tuple[str, Any], Callable[[Any], Any]] = field(default_factory=dict)
    ledger: Ledger = OFF

    def names(self, logits_keys: Sequence[str] = ()) -> tuple[str, ...]:
        """The names of the teachers.

        Where only outputs are handed in, a list holds one for each of several teachers, and so does a
        mapping unless it has logits itself; anything else, tuples too, is the output of one teacher.

        Args:
            logits_keys: besides ``logits``, what a mapping calls its logits.
        """
        if self.teachers:
            return tuple(self.teachers)
        given = self.teacher_output
        if isinstance(given, list):
            return tuple(f"teacher{index}" for index in range(len(given)))
        if isinstance(given, Mapping) and not any(key in given for key in (*logits_keys, "logits")):
            return tuple(given)
        return ("teacher",)

    def teacher(self, name: str) -> Any:
        """The output of one teacher: handed in, already computed at this step, or computed now."""
        if name not in self.outputs:
            self.outputs[name] = self._given(name) if self.teacher_output is not None else self._run(name)
        return self.outputs[name]

    def demand(self, terms: Sequence[Term]) -> None:
        """Say which terms will be computed at this step, so that a teacher runs no further than they need."""
        layers = [term.layer() for term in terms if term.layer is not None]
        wanted = [layer if isinstance(layer, frozenset) else frozenset((layer,)) for layer in layers]
        self.whole, self.layers = len(layers) < len(terms), frozenset().union(*wanted) - {None}

    def features(self, name: str) -> Any:
        """What one teacher's layers gave, from the forward that its output comes from where that is run as well."""
        if name not in self.captured:
            if self.whole and self.teacher_output is None:
                self.teacher(name)
            elif name in self.teachers:
                with self.ledger.part("teacher"):
                    self.teachers[name].features(self.teacher_given, self.layers, self)
            else:
                raise UsageError(
                    "features come from a teacher, and there is none: set teacher_model, or hand teacher_features to "
                    "on_after_compute_loss"
                )
            self.captured[name] = self.teachers[name].taps
        return self.captured[name]

    def counted(self, mask: Any, name: str, layer: Any = None) -> Any:
        """A mask, or None, without the positions that a teacher's stored output lacks: those of padding.

        Args:
            mask: positions that count otherwise.
            name: of the teacher, whose output or layer was asked for before.
            layer: as the backend calls it; None for the output.
        """
        narrow = self.held.get((name, layer))
        return mask if narrow is None else narrow(mask)

    def _given(self, name: str) -> Any:
        given = self.teacher_output
        if isinstance(given, Mapping) and name in given:
            return given[name]
        names = self.names() if self.teachers or isinstance(given, list) else (name,)
        if len(names) == 1:
            return given
        if isinstance(given, (list, tuple)) and len(given) == len(names):
            return given[names.index(name)]
        raise UsageError(
            f"teacher_output must hold one output for each of the {len(names)} teachers "
            f"({', '.join(names)}), as a list in this order or as a mapping by name"
        )

    def _run(self, name: str) -> Any:
        if name not in self.teachers:
            raise UsageError("there is no teacher: set teacher_model, or hand teacher_output to on_after_compute_loss")
        with self.ledger.part("teacher"):
            return self.teachers[name](self.teacher_given, self)

    @property
    def teacher_given(self) -> Any:
        """What a teacher gets: its own input, or the student's."""
        return self.input if self.teacher_input is None else self.teacher_input


@dataclass(frozen=True)
class Term:
    """One weighted component of the loss.

    Attributes:
        name: names the component in `Distillation.losses`.
        weight: step -> number; 0 means that the term is not computed at this step.
        compute: the unweighted value, a scalar tensor.
        layer: gives the teacher's layer (a frozenset of several) that the term looks at, where it needs nothing else
            of the teacher, or None where it needs no teacher; None in place of a function for a term that needs the
            output.
        balance: (step, student_loss, value) -> a further factor of the weight at this step, on the device; called
            right after `compute`.
        probe: the value once more, without a trace in any module; None where `compute` leaves none.
        when: whether the term has something to compute at a step; None where it always has.
        measures: what `compute` measured besides, by name; scalars without a graph that are reported and not added.
        of_features: whether it looks at hidden features, whose positions are others than those of the logits.
    """

    name: str
    weight: Weight
    compute: Callable[[Step], Tensor]
    layer: Callable[[], Any] | None = None
    balance: Callable[[Step, Tensor, Tensor], Tensor] | None = None
    probe: Callable[[Step], Tensor] | None = None
    when: Callable[[Step], bool] | None = None
    measures: Callable[[], Mapping[str, Tensor]] | None = None
    of_features: bool = False


@runtime_checkable
class Criterion(Protocol):
    """What `Distillation.criterion` takes: a student's weight and terms.

    Attributes:
        student_label: names the user's own loss among the components (``loss_types[0]``).
        student_weight: step -> the weight of the user's own loss.
        terms: the components that are added to it.
    """

    student_label: str
    student_weight: Weight
    terms: Sequence[Term]


class OwnLoss:
    """The loop's own loss, for runs that add to it and don't distil.

    Attributes:
        student_label: what it is called among the components.
        student_weight: 1 at every step.
        terms: none.
    """

    student_label = "CE"
    terms: Sequence[Term] = ()

    def __init__(self) -> None:
        self.student_weight: Weight = Constant(1.0)


def with_own_loss(criteria: Iterable[Criterion]) -> tuple[Criterion, ...]:
    """The same criteria, and before them the loop's own loss where all of them only add to it.

    A criterion that only adds says so with ``only_adds = True``; its student's weight is 0.
    """
    found = tuple(criteria)
    return (OwnLoss(), *found) if all(getattr(one, "only_adds", False) for one in found) else found


Weigh = Callable[[Any, Callable[[], Tensor]], tuple[Tensor, Tensor]]


def weigh(factor: Any, compute: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """A component and its product with a number; with 1 the very component."""
    value = compute()
    return value, value if factor == 1 else factor * value


class Objective:
    """The sum over criteria: ``sum of student weights * student_loss + sum of weight * term``.

    Args:
        criteria: one or more; the user's loss is labelled by the first.

    Attributes:
        names_own_loss: whether the user's loss is among the components.
    """

    names_own_loss = True

    def __init__(self, criteria: Iterable[Criterion]) -> None:
        self.criteria = tuple(criteria)
        if not self.criteria:
            raise UsageError("there is no criterion: set one, or leave it to the configuration")
        self.student_label = self.criteria[0].student_label
        self._student_weights = [criterion.student_weight for criterion in self.criteria]
        self._terms = _unique(self.student_label, [term for criterion in self.criteria for term in criterion.terms])
        self._looks_inside = any(term.layer is not None for term in self._terms)

    def total(
        self, step: Step, student_loss: Tensor, weigh: Weigh = weigh
    ) -> tuple[Tensor, tuple[str, ...], list[Tensor]]:
        """The total loss, and the unweighted components by name; the total stands last among them.

        With no term left and a student's weight of exactly 1 the very `student_loss` is returned.

        Args:
            step: of the loop.
            student_loss: the loop's own.
            weigh: computes a component and multiplies it; of a backend whose weights may be tensors.
        """
        index = step.index
        weight = sum(student_weight(index) for student_weight in self._student_weights)
        names, values = ([self.student_label], [student_loss]) if self.names_own_loss else ([], [])
        # weight 0 drops the loss instead of multiplying it: 0 * inf is not 0
        total = None if _is_zero(weight) else weigh(weight, lambda: student_loss)[1]
        live = [(term, factor) for term in self._terms if not _is_zero(factor := term.weight(index))]
        live = [(term, factor) for term, factor in live if term.when is None or term.when(step)]
        if self._looks_inside:
            step.demand([term for term, _ in live])
        for term, factor in live:
            with step.ledger.part("losses"):
                value, weighted = weigh(factor, partial(_scaled, term, step))
                if term.balance is not None:
                    weighted = term.balance(step, student_loss, value) * weighted
            names.append(term.name)
            values.append(value)
            measures = term.measures() if term.measures is not None else {}
            names += [f"{term.name}.{name}" for name in measures]
            values += measures.values()
            total = weighted if total is None else total + weighted
        if total is None:  # everything has weight 0: a zero that still belongs to the student's graph
            total = student_loss * 0
        names.append("total")
        values.append(total)
        return total, tuple(names), values


def _scaled(term: Term, step: Step) -> Tensor:
    """A term's value, as its batch counts; a balance compares with a loss that is scaled already."""
    plain = step.scale is None or term.balance is not None
    return term.compute(step) if plain else step.scale[term.of_features] * term.compute(step)  # type: ignore[index]


BALANCES = ("gradient",)
"""What the option ``balance`` of a criterion may be, besides None."""


def check_balance(balance: str | None) -> str | None:
    """The option, if it is one; UsageError otherwise."""
    if balance is not None and balance not in BALANCES:
        raise UsageError(f"balance must be 'gradient' or None, not {balance!r}")
    return balance


def _is_zero(factor: Any) -> bool:
    """Whether a weight is surely 0; a tensor of a graph is not known yet."""
    return isinstance(factor, Real) and factor == 0


def _unique(label: str, terms: Sequence[Term]) -> tuple[Term, ...]:
    """The terms with distinct names: ``KL``, ``KL.2``, ..., none equal to the student's label or ``total``."""
    seen = {fold(label): 1, "total": 1}
    result = []
    for term in terms:
        count = seen[fold(term.name)] = seen.get(fold(term.name), 0) + 1
        result.append(term if count == 1 else replace(term, name=f"{term.name}.{count}"))
    return tuple(result)


def as_criteria(value: Any) -> tuple[Criterion, ...]:
    """One criterion or a list of them, checked when it is set rather than in the middle of a run.

    Raises:
        ModelError: something without `student_label`, `student_weight` and `terms`.
    """
    criteria = tuple(value) if isinstance(value, (list, tuple)) else (value,)
    for criterion in criteria:
        if not isinstance(criterion, Criterion):
            raise ModelError(
                f"{type(criterion).__name__} is no distillation criterion: it has no student_label, student_weight "
                "and terms. The loss against the target is the loop's own and is handed to on_after_compute_loss"
            )
    return criteria


def teachers_by_name(teacher: Any) -> dict[str, Any]:
    """Teachers by name: ``teacher``, ``teacher0``, ..., or the user's own names."""
    if teacher is None:
        return {}
    if isinstance(teacher, Mapping):
        return dict(teacher)
    if isinstance(teacher, (list, tuple)):
        return {f"teacher{index}": one for index, one in enumerate(teacher)}
    return {"teacher": teacher}
