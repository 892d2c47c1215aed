"""Findings about the loss and what trains on it: scales, temperature, the optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kdhooks.check.advice import advice
from kdhooks.check.models import returns_probabilities
from kdhooks.check.observation import Array, ModelFacts, Observation, OptimizerFacts, TermFacts
from kdhooks.check.report import Finding, some

_TEMPERATURES = (1, 2, 3, 4, 6, 8, 10, 15, 20)
_ONE_HOT, _UNIFORM = 0.99, 0.98


@dataclass(frozen=True)
class Share:
    """A term's part of the whole.

    Attributes:
        term: the term.
        value: of the weighted sum, in 0 ... 1, or None.
        pull: of the weighted gradient norms, in 0 ... 1, or None.
    """

    term: TermFacts
    value: float | None
    pull: float | None


def shares(terms: tuple[TermFacts, ...]) -> list[Share]:
    """What part of the loss and of the gradient on the student's logits each term is."""
    values = [_times(term.weight, term.value) for term in terms]
    pulls = [_times(term.weight, term.gradient) for term in terms]
    return [
        Share(term, _part(value, values), _part(pull, pulls))
        for term, value, pull in zip(terms, values, pulls, strict=True)
    ]


def _times(weight: float, value: float | None) -> float | None:
    return 0.0 if weight == 0 else None if value is None else abs(weight * value)


def _part(value: float | None, values: list[float | None]) -> float | None:
    known = [one for one in values if one is not None]
    total = sum(known)
    # without the loop's own loss there is nothing to be a part of
    return None if value is None or len(known) < len(values) or not np.isfinite(total) or total == 0 else value / total


def loss_findings(seen: Observation) -> Iterator[Finding]:
    """Everything that the components, the temperature and the optimizer show."""
    for term in seen.terms:
        yield from _term(term)
    yield from _balance(seen)
    for teacher in seen.teachers:
        yield from _temperature(teacher, seen)
    if seen.terms and not any(term.weight and not term.of_student for term in seen.terms):
        yield Finding(
            "warning",
            "weights",
            "no term with the teacher has a weight: nothing is distilled",
            "loss_weights, after the first",
        )
    if not seen.teachers and any(term.weight and term.needs_teacher and not term.of_student for term in seen.terms):
        yield Finding(
            "warning",
            "no teacher",
            "no teacher is set",
            "distiller.teacher_model = ..., or hand teacher_output to on_after_compute_loss",
        )
    if seen.optimizer is not None:
        yield from _optimizer(seen.optimizer, seen.framework)


def _term(term: TermFacts) -> Iterator[Finding]:
    if term.error:
        yield Finding("error", "loss", f"{term.name} can't be computed: {term.error}")
    if term.non_finite:
        numbers = some([str(number) for number in term.non_finite])
        yield Finding(
            "error",
            "NaN",
            f"{term.name} is NaN or infinite in batch {numbers}",
            "look at the logits of both models and at the inputs",
        )


def _balance(seen: Observation) -> Iterator[Finding]:
    found = shares(seen.terms)
    if not any(share.term.of_student and share.term.weight for share in found):
        return  # the teacher alone, on purpose
    for share in found:
        if share.term.of_student or not share.term.weight or share.pull is None:
            continue
        pulls = f"{share.term.name} with weight {share.term.weight:g} is {share.pull:.2%} of the pull on the student's "
        pulls += "logits"
        if share.pull < 0.01:
            yield Finding(
                "warning",
                "loss scale",
                f"{pulls}: the teacher is hardly heard",
                "raise its weight; a mean over elements instead of rows also makes a loss weaker by the number of "
                f"classes, here {seen.student.classes}",
            )
        elif share.pull > 0.99:
            yield Finding(
                "warning",
                "loss scale",
                f"{pulls}: the labels are hardly heard",
                "lower its weight, or see whether T² or the mean is taken twice",
            )


def _temperature(teacher: ModelFacts, seen: Observation) -> Iterator[Finding]:
    logits = teacher.logits[np.isfinite(teacher.logits).all(1)] if teacher.logits.size else teacher.logits
    if len(logits) == 0 or teacher.classes < 2 or np.ptp(logits) == 0 or returns_probabilities(teacher):
        return  # a finding of its own already
    temperatures = {term.temperature for term in seen.terms if term.temperature is not None and term.weight}
    for temperature in sorted(temperatures):
        top, entropy = softness(logits, temperature)
        if top > _ONE_HOT:
            better = next((t for t in _TEMPERATURES if t > temperature and softness(logits, t)[0] < 0.9), None)
            yield Finding(
                "warning",
                "temperature",
                f"at T = {temperature:g} {teacher.name} gives its first class {top:.2%} on average: such soft labels "
                "say little more than hard ones",
                f"try temperature: {better}.0 ({softness(logits, better)[0]:.0%})"
                if better
                else "raise the temperature",
            )
        elif entropy > _UNIFORM:
            yield Finding(
                "warning",
                "temperature",
                f"at T = {temperature:g} the distributions of {teacher.name} are nearly uniform (entropy {entropy:.1%} "
                "of the possible): little is left to learn from",
                "lower the temperature"
                if temperature > 1
                else "see that the teacher returns logits, and that it is trained",
            )


def softness(logits: Array, temperature: float) -> tuple[float, float]:
    """Mean highest probability, and mean entropy as a share of log C, of softmax(logits / T).

    Args:
        logits: [positions, C].
        temperature: T.
    """
    scaled = logits.astype(np.float64) / temperature
    scaled = scaled - scaled.max(1, keepdims=True)
    weights = np.exp(scaled)
    total = weights.sum(1, keepdims=True)
    entropy = (np.log(total) - (weights * scaled).sum(1, keepdims=True) / total).mean()
    return float((1 / total).mean()), float(entropy / np.log(logits.shape[1]))


def _optimizer(optimizer: OptimizerFacts, framework: str) -> Iterator[Finding]:
    if optimizer.missing and not optimizer.held:
        yield Finding(
            "error",
            "optimizer",
            f"{optimizer.kind} holds none of the student's {len(optimizer.missing)} trainable parameters: it was made "
            "for another model",
            advice("optimizer of another model", framework),
        )
    elif optimizer.missing:
        yield Finding(
            "warning",
            "optimizer",
            f"{optimizer.kind} lacks {len(optimizer.missing)} of the student's trainable parameters: "
            f"{some(optimizer.missing)}",
            advice("optimizer that lacks some", framework),
        )
    if optimizer.of_teachers:
        yield Finding(
            "warning",
            "optimizer",
            f"{optimizer.kind} holds {len(optimizer.of_teachers)} of the teacher's parameters: "
            f"{some(optimizer.of_teachers)}",
            "make it from the student's parameters alone: weight decay would change the teacher",
        )
    if optimizer.strangers and (optimizer.held or not optimizer.missing):
        yield Finding(
            "info", "optimizer", f"{optimizer.kind} also holds {optimizer.strangers} parameters of neither model"
        )
