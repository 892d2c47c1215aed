"""The metrics of class numbers that most people ask for, as torchmetrics metrics that never wait for the device.

Rules: logits are [R, C] and targets [R]; rows with the target -100 count nothing; states stay on the device until
``compute``. torchmetrics' own classes select the counted rows, which makes the host wait for every batch.
This module is imported where a metric is built, so that torchmetrics is needed only there.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import Metric

from kdhooks.datasets import UNLABELLED

Average = Literal["macro", "micro", "weighted"]


class TopK(Metric):
    """The share of rows whose class is among the `k` largest logits.

    Args:
        k: how many logits may hold the class; all of them where there are fewer.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    correct: Tensor
    rows: Tensor

    def __init__(self, k: int = 1) -> None:
        super().__init__()
        self.k = k
        self.add_state("correct", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch: logits [R, C], class numbers [R]."""
        best = logits.topk(min(self.k, logits.shape[1]), dim=1).indices
        # No class has the number -100, so unlabelled rows are never correct.
        self.correct += (best == target[:, None]).sum()
        self.rows += (target != UNLABELLED).sum()

    def compute(self) -> Tensor:
        """The share from 0 to 1; NaN where no row had a label."""
        return self.correct / self.rows


class MeanCrossEntropy(Metric):
    """The mean cross-entropy of the labelled rows, in nats."""

    is_differentiable = False
    higher_is_better = False
    full_state_update = False
    total: Tensor
    rows: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Add a batch: logits [R, C], class numbers [R]."""
        self.total += F.cross_entropy(logits, target, ignore_index=UNLABELLED, reduction="sum")
        self.rows += (target != UNLABELLED).sum()

    def compute(self) -> Tensor:
        """The mean; NaN where no row had a label."""
        return self.total / self.rows


class Perplexity(MeanCrossEntropy):
    """exp of the mean cross-entropy of the labelled positions."""

    def compute(self) -> Tensor:
        """The perplexity, at least 1; NaN where no position had a label."""
        return super().compute().exp()


class ClassCounts(Metric):
    """Precision, recall or F1 from the counts of every class.

    With P = TP / (TP + FP) and R = TP / (TP + FN) a class, F1 = 2 TP / (2 TP + FP + FN); 0 where the denominator is.
    ``macro`` is the mean over the classes that occur in targets or predictions, ``weighted`` weighs
    them by their frequency in the targets, ``micro`` puts all counts together.

    Args:
        kind: which of them.
        num_classes: C.
        average: how classes become one number.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    hits: Tensor
    predicted: Tensor
    present: Tensor

    def __init__(self, kind: Literal["precision", "recall", "F1"], num_classes: int, average: Average) -> None:
        super().__init__()
        self.kind, self.average = kind, average
        for name in ("hits", "predicted", "present"):
            self.add_state(name, torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, logits: Tensor, target: Tensor) -> None:
        """Count a batch: logits [R, C], class numbers [R]."""
        prediction = logits.argmax(1)
        counted = target != UNLABELLED
        own = target.where(counted, 0)
        self.hits.scatter_add_(0, own, ((prediction == target) & counted).long())
        self.present.scatter_add_(0, own, counted.long())
        self.predicted.scatter_add_(0, prediction, counted.long())

    @property
    def rows(self) -> Tensor:
        """How many rows had a label."""
        return self.present.sum()

    def compute(self) -> Tensor:
        """The average from 0 to 1; NaN where no row had a label."""
        counts = torch.stack([self.hits, self.predicted, self.present]).double()
        if self.average == "micro":
            counts = counts.sum(1, keepdim=True)
        each = self._ratio(counts[0], counts[1], counts[2])
        weights = counts[2] if self.average == "weighted" else (counts[1] + counts[2] > 0).double()
        return torch.sum(each * weights) / weights.sum()

    def _ratio(self, hits: Tensor, predicted: Tensor, present: Tensor) -> Tensor:
        denominator = {"F1": (predicted + present) / 2, "precision": predicted, "recall": present}[self.kind]
        return torch.where(denominator > 0, hits / denominator, 0.0)


class Dice(ClassCounts):
    """The Dice score of masks: F1 of every class but the background, over all places of all images, and their mean.

    Args:
        num_classes: C.
        background: the class that counts nothing, or None where every class counts.
    """

    def __init__(self, num_classes: int, background: int | None = 0) -> None:
        super().__init__("F1", num_classes, "macro")
        self.background = background

    def compute(self) -> Tensor:
        """The mean from 0 to 1 over the classes that occur; NaN where none but the background does."""
        counts = torch.stack([self.hits, self.predicted, self.present]).double()
        if self.background is not None:
            counts[:, self.background] = 0
        occurs = (counts[1] + counts[2] > 0).double()
        return torch.sum(self._ratio(counts[0], counts[1], counts[2]) * occurs) / occurs.sum()
