"""What a backend saw: NumPy arrays and plain facts, nothing that belongs to a framework."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def _empty() -> Array:
    return np.zeros((0, 0))


def _no_labels() -> Array:
    return np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class ModelFacts:
    """One model: what it is, how it stood before the check, and what it returned in evaluation mode.

    Attributes:
        name: ``student``, ``teacher``, or a teacher's own name.
        kind: the name of its class.
        training: the root module's mode, as the check found it.
        parameters: how many numbers it learned or will learn.
        trainable: how many of them take a gradient, as the check found them.
        frozen: names of parameters that take no gradient.
        devices: where its parameters and buffers are.
        dtypes: of its floating-point parameters.
        mode_matters: whether dropout or batch normalisation is in it.
        norms: how many layers keep running statistics.
        untrained_norms: those whose statistics are still mean 0 and variance 1.
        vector_norms: layers that can't train on a batch of a single row (BatchNorm1d).
        is_student: a teacher that is the very student.
        shared: a teacher's modules and parameters that are the student's own.
        error: why its forward failed, or empty.
        shape: of the first batch's logits.
        class_axis: which axis of `shape` the classes are on.
        logits: [positions, C], a sample of at most some thousands of positions.
        predictions: the most probable class at each position whose label counts.
        labels: the labels of `predictions`.
        non_finite: numbers of the batches with NaN or infinity in the logits.
        seconds: of each batch's forward, without gradient.
    """

    name: str
    kind: str = "Module"
    training: bool = False
    parameters: int = 0
    trainable: int = 0
    frozen: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    mode_matters: bool = False
    norms: int = 0
    untrained_norms: tuple[str, ...] = ()
    vector_norms: tuple[str, ...] = ()
    is_student: bool = False
    shared: tuple[str, ...] = ()
    error: str = ""
    shape: tuple[int, ...] = ()
    class_axis: int = -1
    logits: Array = field(default_factory=_empty)
    predictions: Array = field(default_factory=_no_labels)
    labels: Array = field(default_factory=_no_labels)
    non_finite: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()

    @property
    def classes(self) -> int:
        """C, or 0 where there are no logits."""
        return self.shape[self.class_axis] if self.shape else 0


@dataclass(frozen=True)
class InputFacts:
    """One input tensor of the student over all batches that were seen.

    Attributes:
        name: ``input``, ``input[1]`` or the keyword.
        shape: of the first batch.
        dtype: its element type, without the framework's name.
        floating: whether it holds floating-point numbers.
        low, high, mean, std: over all its finite elements.
        non_finite: numbers of the batches with NaN or infinity.
    """

    name: str
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    floating: bool = True
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0
    non_finite: tuple[int, ...] = ()


@dataclass(frozen=True)
class DataFacts:
    """The batches.

    Attributes:
        batches: how many were seen.
        rows: how many rows they had.
        steps: batches an epoch, or None where the loader can't say.
        batch_size: rows of the first batch.
        last_rows: rows of an epoch's last batch, or None where the loader can't say.
        inputs: every input tensor.
        labels: all labels, flat, in the loader's order; empty where there are none or they are no integers.
        label_dtype: their element type; empty where batches have no target.
        label_shape: of the first batch.
        soft_labels: floating-point labels that are distributions over the classes.
        row_labels: whether there is one label a row.
        labels_are_inputs: whether they are the input tokens themselves, not shifted.
        ignore_index: the label of what has none.
        repeats: whether a second pass begins with the same batch; None where it wasn't tried.
    """

    batches: int = 0
    rows: int = 0
    steps: int | None = None
    batch_size: int = 0
    last_rows: int | None = None
    inputs: tuple[InputFacts, ...] = ()
    labels: Array = field(default_factory=_no_labels)
    label_dtype: str = ""
    label_shape: tuple[int, ...] = ()
    soft_labels: bool = False
    row_labels: bool = True
    labels_are_inputs: bool = False
    ignore_index: int = -100
    repeats: bool | None = None

    @property
    def labelled(self) -> Array:
        """The labels without those of `ignore_index`."""
        labelled: Array = self.labels[self.labels != self.ignore_index]
        return labelled


@dataclass(frozen=True)
class TermFacts:
    """One component of the loss, the mean over the batches seen.

    Attributes:
        name: as in `Distillation.losses`.
        weight: at the step that was looked at.
        of_student: the loop's own loss against the target, rather than a term with the teacher.
        value: unweighted; None where it can't be known here (the loop's own loss, say).
        gradient: the norm of the unweighted value's gradient with respect to the student's logits; None for a
            term of hidden layers, which they don't lead to.
        temperature: T, for terms that soften distributions.
        compares_logits: whether a shift of all logits changes it (MSE, L1).
        needs_teacher: whether there is no such term without a teacher.
        error: why it could not be computed, or empty.
        non_finite: numbers of the batches where it was NaN or infinite.
    """

    name: str
    weight: float
    of_student: bool = False
    value: float | None = None
    gradient: float | None = None
    temperature: float | None = None
    compares_logits: bool = False
    needs_teacher: bool = True
    error: str = ""
    non_finite: tuple[int, ...] = ()


@dataclass(frozen=True)
class OptimizerFacts:
    """What an optimizer holds.

    Attributes:
        kind: the name of its class.
        missing: the student's trainable parameters that it lacks, by name.
        held: how many of the student's trainable parameter tensors it holds.
        of_teachers: teachers' own parameters in it, as ``teacher: name``.
        strangers: parameter tensors of neither model.
    """

    kind: str
    missing: tuple[str, ...] = ()
    held: int = 0
    of_teachers: tuple[str, ...] = ()
    strangers: int = 0


@dataclass(frozen=True)
class Observation:
    """All that `kdhooks.check.examine` looks at.

    Attributes:
        student: the student.
        teachers: every teacher.
        data: the batches.
        terms: the components of the loss, the loop's own first.
        step: the step whose weights and temperatures were taken.
        optimizer: None where none is set.
        framework: in whose words advice is given.
    """

    student: ModelFacts
    teachers: tuple[ModelFacts, ...] = ()
    data: DataFacts = field(default_factory=DataFacts)
    terms: tuple[TermFacts, ...] = ()
    step: int = 0
    optimizer: OptimizerFacts | None = None
    framework: str = "pytorch"
