"""Teacher and student row by row: how often they agree, whom they confuse, and where they differ most."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.compared.pictures import picture

Array = NDArray[Any]
OTHERS = "others"
"""What a confusion calls the classes that it does not show."""


@dataclass(frozen=True)
class _Example:
    row: int
    divergence: float
    teacher: int
    student: int
    label: int | None
    teacher_probability: float
    student_probability: float
    input: Any


class SeenRows:
    """Gathers batches of outputs.

    Args:
        most: rows, at most.
        examples: how many rows that differ most are kept.

    Attributes:
        count: rows so far.
    """

    def __init__(self, most: int, examples: int) -> None:
        self.count = 0
        self._most, self._examples = most, examples
        self._kept: list[_Example] = []
        self._predicted: list[tuple[Array, Array, Array]] = []
        self._classes = 0
        self._labelled = True

    @property
    def left(self) -> int:
        """How many rows more are wanted."""
        return self._most - self.count

    def add(self, teacher: Array, student: Array, labels: Array | None, inputs: Callable[[int], Any]) -> None:
        """One more batch, of which no more rows are taken than are wanted.

        Args:
            teacher: logits or probabilities, [N, C].
            student: the same, [N, C].
            labels: class numbers [N]; None, or a negative number, where there is none.
            inputs: gives the input of a row of this batch, as an array; None where it can't be shown.

        Raises:
            ValueError: outputs of other shapes; the message says which.
        """
        if teacher.ndim != 2 or teacher.shape[1] < 2:
            raise ValueError(f"outputs of shape {list(teacher.shape)} are not one row of classes a sample")
        if teacher.shape != student.shape:
            shapes = f"{list(teacher.shape)} and {list(student.shape)}"
            raise ValueError(f"teacher and student have outputs of different shapes, {shapes}")
        rows = min(self.left, len(teacher))
        ours, theirs = (_probabilities(one[:rows]) for one in (student, teacher))
        found = divergence(theirs, ours)
        best, guess = theirs.argmax(1), ours.argmax(1)
        usable = labels is not None and labels.shape == (len(teacher),) and labels.dtype.kind in "iu"
        self._labelled = self._labelled and usable
        known = labels[:rows] if usable and labels is not None else np.full(rows, -1)
        self._classes = teacher.shape[1]
        self._predicted.append((best, guess, known))
        order = [int(row) for row in np.argsort(-found, kind="stable")[: self._examples] if found[row] > 0]
        self._kept += [
            _Example(
                *(self.count + row, float(found[row]), int(best[row]), int(guess[row])),
                int(known[row]) if known[row] >= 0 else None,
                *(float(theirs[row].max()), float(ours[row].max()), inputs(row)),
            )
            for row in order
        ]
        self._kept = sorted(self._kept, key=lambda one: -one.divergence)[: self._examples]
        self.count += rows

    def confusion(self, names: Sequence[str] | None, most: int) -> dict[str, Any]:
        """Counts [teacher's class, student's class], how often they agree, and how often each is right.

        Args:
            names: of the classes; None numbers them.
            most: classes that are shown; of more, those that are confused most, and the rest as one.
        """
        teacher, student, labels = (np.concatenate(part) for part in zip(*self._predicted, strict=True))
        counts = np.bincount(teacher * self._classes + student, minlength=self._classes**2)
        counts = counts.reshape(self._classes, self._classes)
        shown = self._names(names)
        if self._classes > most:
            counts, shown = _largest(counts, shown, most - 1)
        there = labels >= 0
        accuracy = None
        if self._labelled and there.any():
            accuracy = {
                "teacher": float((teacher == labels)[there].mean()),
                "student": float((student == labels)[there].mean()),
            }
        return {
            "classes": shown,
            "teacher_student": counts.tolist(),
            "agreement": float((teacher == student).mean()),
            "rows": self.count,
            "accuracy": accuracy,
        }

    def disagreements(self, names: Sequence[str] | None) -> list[dict[str, Any]]:
        """The rows that differ most, the worst first."""
        shown = self._names(names)
        return [
            {
                "row": one.row,
                "teacher": shown[one.teacher],
                "student": shown[one.student],
                "label": shown[one.label] if one.label is not None and one.label < len(shown) else None,
                "divergence": one.divergence,
                "teacher_probability": one.teacher_probability,
                "student_probability": one.student_probability,
                "image": None if one.input is None else picture(one.input),
                "text": None if one.input is None else tokens(one.input),
            }
            for one in self._kept
        ]

    def _names(self, names: Sequence[str] | None) -> list[str]:
        if names is None or len(names) != self._classes:
            return [str(number) for number in range(self._classes)]
        return [str(name) for name in names]


def divergence(one: Array, other: Array) -> Array:
    """The symmetric KL divergence of rows of probabilities [N, C]: (KL(p || q) + KL(q || p)) / 2, in nats.

    >>> divergence(np.array([[0.5, 0.5]]), np.array([[0.5, 0.5]])).tolist()
    [0.0]
    """
    p, q = (np.clip(part, 1e-12, None) for part in (one, other))
    found: Array = 0.5 * ((p - q) * (np.log(p) - np.log(q))).sum(1)
    return found


def tokens(row: Any) -> str | None:
    """The numbers of a row of token ids [T], without the zeros at its end; None for what is none."""
    values = np.asarray(row)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        return None
    there = np.flatnonzero(values)
    return " ".join(map(str, values[: there[-1] + 1 if len(there) else 0][:64].tolist()))


def _probabilities(outputs: Array) -> Array:
    """Rows that are probabilities already stay so; logits go through softmax."""
    values = outputs.astype(np.float64)
    if (values >= 0).all() and (np.abs(values.sum(1) - 1) < 1e-3).all():
        return values
    values = np.exp(values - values.max(1, keepdims=True))
    found: Array = values / values.sum(1, keepdims=True)
    return found


def _largest(counts: Array, names: list[str], most: int) -> tuple[Array, list[str]]:
    """The classes with most confusions in their own order, and all the others as one."""
    wrong = counts - np.diag(np.diag(counts))
    chosen = np.sort(np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")[:most])
    place = np.full(len(counts), most)
    place[chosen] = np.arange(most)
    found = np.zeros((most + 1, most + 1), counts.dtype)
    np.add.at(found, (place[:, None], place[None, :]), counts)
    return found, [*(names[index] for index in chosen), OTHERS]
