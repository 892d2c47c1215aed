"""The metrics that most people ask for, in NumPy.

Rules: logits are [R, C] and targets [R]; rows with the target -100 count nothing. Counts are whole numbers and sums are
float64, so the order of the batches changes nothing but the last digits of a sum.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from kdhooks.datasets import UNLABELLED

Array = NDArray[Any]


class TopK:
    """The share of rows whose class is among the `k` largest logits.

    Args:
        k: how many logits may hold the class; all of them where there are fewer.

    Example:
        >>> metric = TopK(1)
        >>> metric.update(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
        >>> metric.compute()
        0.5
    """

    higher_is_better = True

    def __init__(self, k: int = 1) -> None:
        self.k, self.correct, self.rows = k, 0, 0

    def update(self, logits: Array, target: Array) -> None:
        """Count a batch: logits [R, C], class numbers [R]."""
        k = min(self.k, logits.shape[1])
        best = logits.argmax(1)[:, None] if k == 1 else np.argsort(-logits, axis=1, kind="stable")[:, :k]
        self.correct += int((best == target[:, None]).sum())  # no class has the number -100
        self.rows += int((target != UNLABELLED).sum())

    def compute(self) -> float:
        """The share from 0 to 1; NaN where no row had a label."""
        return self.correct / self.rows if self.rows else float("nan")


class MeanCrossEntropy:
    """The mean cross-entropy of the labelled rows, in nats."""

    higher_is_better = False

    def __init__(self) -> None:
        self.total, self.rows = 0.0, 0

    def update(self, logits: Array, target: Array) -> None:
        """Add a batch: logits [R, C], class numbers [R]."""
        counted = target != UNLABELLED
        values = logits[counted].astype(np.float64)
        values -= values.max(1, keepdims=True)
        of_class = np.take_along_axis(values, target[counted][:, None].astype(np.int64), 1)[:, 0]
        self.total += float((np.log(np.exp(values).sum(1)) - of_class).sum())
        self.rows += int(counted.sum())

    def compute(self) -> float:
        """The mean; NaN where no row had a label."""
        return self.total / self.rows if self.rows else float("nan")


class Perplexity(MeanCrossEntropy):
    """exp of the mean cross-entropy of the labelled positions."""

    def compute(self) -> float:
        """The perplexity, at least 1; NaN where no position had a label."""
        return float(np.exp(super().compute()))


class ClassCounts:
    """Precision, recall or F1 from the counts of every class.

    With P = TP / (TP + FP) and R = TP / (TP + FN) a class, F1 = 2 TP / (2 TP + FP + FN); 0 where the denominator is.
    ``macro`` is the mean over the classes that occur in targets or predictions, ``weighted`` weighs
    them by their frequency in the targets, ``micro`` puts all counts together.

    Args:
        kind: which of them.
        num_classes: C.
        average: how classes become one number.
    """

    higher_is_better = True

    def __init__(
        self,
        kind: Literal["precision", "recall", "F1"],
        num_classes: int,
        average: Literal["macro", "micro", "weighted"],
    ) -> None:
        self.kind, self.average = kind, average
        self._counts = np.zeros((3, num_classes), np.int64)

    def update(self, logits: Array, target: Array) -> None:
        """Count a batch: logits [R, C], class numbers [R]."""
        counted = target != UNLABELLED
        target, prediction = target[counted].astype(np.int64), logits[counted].argmax(1)
        for row, classes in enumerate((target[prediction == target], prediction, target)):
            self._counts[row] += np.bincount(classes, minlength=self._counts.shape[1])

    @property
    def rows(self) -> int:
        """How many rows had a label."""
        return int(self._counts[2].sum())

    def compute(self) -> float:
        """The average from 0 to 1; NaN where no row had a label."""
        counts = self._counts.astype(np.float64)
        if self.average == "micro":
            counts = counts.sum(1, keepdims=True)
        hits, predicted, present = counts
        denominator = {"F1": (predicted + present) / 2, "precision": predicted, "recall": present}[self.kind]
        each = np.divide(hits, denominator, out=np.zeros_like(hits), where=denominator > 0)
        weights = present if self.average == "weighted" else (predicted + present > 0).astype(np.float64)
        return float((each * weights).sum() / weights.sum()) if weights.sum() else float("nan")


class MeanError:
    """The mean squared or absolute error of numbers.

    Args:
        kind: ``MSE``, its root ``RMSE``, or ``MAE``.
    """

    higher_is_better = False

    def __init__(self, kind: Literal["MSE", "RMSE", "MAE"]) -> None:
        self.kind = kind
        self._sum, self._numbers = 0.0, 0

    def update(self, output: Array, target: Array) -> None:
        """Add a batch: two arrays of one shape."""
        error = output.astype(np.float64) - target.astype(np.float64)
        self._sum += float(np.abs(error).sum() if self.kind == "MAE" else np.square(error).sum())
        self._numbers += error.size

    def compute(self) -> float:
        """The mean over all numbers."""
        mean = self._sum / self._numbers if self._numbers else float("nan")
        return float(np.sqrt(mean)) if self.kind == "RMSE" else mean
