"""Findings about the models: modes, statistics, sharing, what they return and how well they do."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from kdhooks.check.advice import advice
from kdhooks.check.observation import Array, ModelFacts, Observation, TermFacts
from kdhooks.check.permutation import other_class_order
from kdhooks.check.report import Finding, Severity, some

_FEWEST = 32  # labelled positions that an accuracy is judged by


def model_findings(seen: Observation) -> Iterator[Finding]:
    """Everything that one model or the pair of them shows."""
    yield from _student_alone(seen.student, seen.framework)
    for teacher in seen.teachers:
        yield from _teacher_alone(teacher, seen.framework)
        yield from _pair(seen.student, teacher, seen.framework)
    for model in (seen.student, *seen.teachers):
        yield from _outputs(model, seen.terms, seen.framework)
        yield from _skill(model, seen.student)


def accuracy(model: ModelFacts) -> float | None:
    """The share of labelled positions that the model gets right; None where there are none."""
    return float((model.predictions == model.labels).mean()) if len(model.labels) else None


def _student_alone(student: ModelFacts, framework: str) -> Iterator[Finding]:
    if student.trainable == 0:
        yield Finding(
            "error",
            "nothing to train",
            "no parameter of the student takes a gradient",
            advice("unfreeze", framework),
        )
    elif student.frozen:
        yield Finding(
            "info",
            "frozen",
            f"{len(student.frozen)} of the student's parameters take no gradient: {some(student.frozen)}",
        )
    if not student.training and student.mode_matters:
        yield Finding(
            "warning",
            "modes",
            "the student is in evaluation mode: its dropout is off and its batch normalisation learns no statistics",
            advice("mode", framework),
        )


def _teacher_alone(teacher: ModelFacts, framework: str) -> Iterator[Finding]:
    name = teacher.name
    if teacher.training and teacher.mode_matters and not teacher.is_student:
        yield Finding("info", "modes", f"{name} is in training mode; it runs in evaluation mode while it is attached")
    if teacher.untrained_norms:
        count = len(teacher.untrained_norms)
        yield Finding(
            "warning",
            "batch statistics",
            f"{count} of {teacher.norms} batch normalisation layers of {name} have never seen data (mean 0, variance "
            f"1): {some(teacher.untrained_norms)}",
            advice("statistics", framework),
        )


def _pair(student: ModelFacts, teacher: ModelFacts, framework: str) -> Iterator[Finding]:
    name = teacher.name
    if teacher.is_student:
        yield Finding(
            "error",
            "same model",
            f"{name} is the student itself: it can teach nothing",
            advice("copy", framework),
        )
        return
    if teacher.shared:
        yield Finding(
            "info", "shared", f"{name} shares with the student, and they train with it: {some(teacher.shared)}"
        )
    if teacher.devices != student.devices and teacher.devices and student.devices:
        yield Finding(
            "info",
            "devices",
            f"{name} is on {some(teacher.devices)} and the student on {some(student.devices)}: its inputs and outputs "
            "are copied at every step",
        )
    if teacher.dtypes != student.dtypes and teacher.dtypes and student.dtypes:
        yield Finding(
            "info", "dtypes", f"{name} computes in {some(teacher.dtypes)}, the student in {some(student.dtypes)}"
        )
    if not (teacher.shape and student.shape):
        return
    if teacher.classes != student.classes:
        more = teacher.classes - student.classes
        yield Finding(
            "error",
            "classes",
            f"{name} has {teacher.classes} classes and the student {student.classes}",
            "cut the teacher's background class off before its logits are used"
            if more == 1
            else "both need the same classes: give the student the teacher's head size, or index the teacher's logits",
        )
    elif teacher.shape != student.shape:
        yield Finding(
            "error",
            "shapes",
            f"the logits of {name} have shape {list(teacher.shape)} and the student's {list(student.shape)}",
            "resize or slice one of them, so that each position of the student has one of the teacher",
        )


def _outputs(model: ModelFacts, terms: tuple[TermFacts, ...], framework: str) -> Iterator[Finding]:
    name = _the(model)
    if model.error:
        yield Finding("error", "forward", f"{name} failed on a batch: {model.error}")
        return
    if model.non_finite:
        yield Finding(
            "error",
            "NaN",
            f"the logits of {name} are NaN or infinite in {_batches(model.non_finite)}",
            "look for a damaged weights file, or half precision that overflows",
        )
    if model.classes == 1 and any(term.temperature is not None for term in terms):
        yield Finding(
            "error",
            "classes",
            f"{name} has a single output: a softmax over one class is always 1, so no distribution can be learned",
            "use two outputs, [-z/2, z/2], or a loss on the logit itself (MSE)",
        )
    if model.classes < 2:
        return
    finite = model.logits[np.isfinite(model.logits).all(1)]
    if len(finite) < 2:
        return
    if returns_probabilities(model):
        yield Finding(
            "error",
            "probabilities",
            f"{name} returns probabilities, not logits: a second softmax makes them nearly uniform",
            advice("probabilities", framework),
        )
    elif (finite <= 0).all() and _sums_to_one(np.exp(finite)):
        compared = [term.name for term in terms if term.compares_logits and term.weight]
        yield Finding(
            "warning" if compared else "info",
            "log-probabilities",
            f"{name} returns log-probabilities; their softmax is the same distribution"
            + (f", but {some(compared)} compares the numbers themselves" if compared else ""),
            "return the layer before the log-softmax" if compared else "",
        )
    if np.ptp(finite, axis=0).max() <= 1e-6 * (1 + np.abs(finite).max()):
        severity: Severity = "warning" if model.name == "student" else "error"
        yield Finding(severity, "constant", f"{name} returns the same logits for every input")


def returns_probabilities(model: ModelFacts) -> bool:
    """Whether every row of logits is a distribution."""
    finite = model.logits[np.isfinite(model.logits).all(1)] if model.logits.size else model.logits
    return len(finite) > 1 and model.classes > 1 and _sums_to_one(finite)


def _sums_to_one(values: Array) -> bool:
    return bool(
        (values >= 0).all() and np.abs(values.sum(1) - 1).max() < 2e-2 and np.abs(values.sum(1) - 1).mean() < 5e-3
    )


def _skill(model: ModelFacts, student: ModelFacts) -> Iterator[Finding]:
    """How well a model does on the labels, and what a bad result most likely means."""
    found = accuracy(model)
    if found is None or model.classes < 2:
        return
    order = other_class_order(model.predictions, model.labels, model.classes)
    if order is not None:
        pairs = [f"label {label} is its class {column}" for label, column in order.moved]
        yield Finding(
            "error",
            "class order",
            f"{_the(model)} knows the classes in another order than the labels: accuracy {order.before:.1%} as it is, "
            f"{order.after:.1%} after a permutation; {some(pairs, 6)}",
            "sort the classes of both the same way, or index the logits: logits[:, order]",
        )
        return
    teaches = model is not student
    if not teaches or len(model.labels) < _FEWEST:
        return
    chance, count = float(np.bincount(model.labels).max() / len(model.labels)), len(model.labels)
    if chance < 1 and found <= chance + 2 * np.sqrt(chance * (1 - chance) / count):
        yield Finding(
            "error",
            "teacher",
            f"{model.name} is right on {found:.1%} of {count} labels, no better than always naming the most frequent "
            f"class ({chance:.1%})",
            "check that its weights were loaded, and that inputs are normalised as they were for its training",
        )
        return
    own = accuracy(student)
    if own is None or len(student.labels) != count:
        return
    gained = int(((student.predictions == student.labels) & (model.predictions != model.labels)).sum())
    lost = int(((student.predictions != student.labels) & (model.predictions == model.labels)).sum())
    if gained - lost > 2 * np.sqrt(gained + lost):
        yield Finding(
            "warning",
            "teacher",
            f"{model.name} is worse than the student: {found:.1%} against {own:.1%} of {count} labels",
            "a weaker teacher rarely helps; see that inputs are normalised as they were for its training",
        )


def _the(model: ModelFacts) -> str:
    return f"the {model.name}" if model.name in ("student", "teacher") else model.name


def _batches(numbers: tuple[int, ...]) -> str:
    return f"batch {numbers[0]}" if len(numbers) == 1 else f"batches {some([str(number) for number in numbers])}"
