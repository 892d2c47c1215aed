"""What evaluation measures, by name, on torchmetrics.

Rules: names and options are tried out when the set is built, not after the first epoch of training. Ours keep
their counts on the device until `MetricSet.compute`. Class numbers of -100 have no label and count nowhere.
torchmetrics is imported when a set is built.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdhooks.config.model import EvaluationSettings, MetricSettings
from kdhooks.datasets import UNLABELLED
from kdhooks.errors import DataError, UsageError
from kdhooks.loop.metric_entries import Entry, Scores
from kdhooks.registry import register_metric
from kdhooks.torch.metric_table import METRICS, entries_of
from kdhooks.torch.outputs import logits_of

__all__ = ["METRICS", "MetricSet", "build_metrics", "register_metric"]


def build_metrics(settings: EvaluationSettings) -> MetricSet:
    """The metrics of ``evaluation.accuracy``.

    Args:
        settings: their names, options and weights.

    Raises:
        UsageError: an unknown name or option, or a metric that does not say whether higher is better.
        MissingPackageError: torchmetrics is not installed.
    """
    return MetricSet(settings.metrics)


class MetricSet(Scores):
    """Several metrics, updated together.

    Args:
        settings: one or more metrics with their weights.

    Attributes:
        alone: whether values are those of this process, where metrics would gather those of all that train together.

    >>> from kdhooks.config.model import Named
    >>> metrics = MetricSet([MetricSettings(Named("topk", {"": [1, 2]}))])
    >>> metrics.update(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.1, 0.4]]), torch.tensor([1, 2]))
    >>> metrics.compute()
    {'top1': 0.5, 'top2': 1.0}
    """

    def __init__(self, settings: Sequence[MetricSettings]) -> None:
        super().__init__(settings, entries_of)
        self.alone = False
        self.reset()

    def reset(self) -> None:
        """Forget all batches, and the number of classes."""
        for entry in self._entries:
            entry.metric = None
        self._outside: Tensor | None = None
        self._classes = 0

    @torch.no_grad()
    def update(self, output: Any, target: Any) -> None:
        """Add a batch; nothing of ours waits for the device.

        Args:
            output: logits [N, C], [N, T, C] or [N, C, H, W], or whatever a model returns them in; or predicted
                numbers of the target's shape.
            target: class numbers [N], [N, T] or [N, H, W], -100 without a label; or numbers.

        Raises:
            DataError: the shapes do not belong together, or the number of classes has changed.
        """
        logits = logits_of(output)
        if not isinstance(target, Tensor):
            raise DataError(f"metrics need a target that is a tensor, not {type(target).__name__}")
        target = target.to(logits.device)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        classes, logits, target = _rows(logits, target)
        if classes:
            target = self._inside(target, classes)
        if self._entries[0].metric is None:
            self._build(classes, logits.device)
        elif classes != self._classes:
            raise DataError(f"the logits have {classes} classes, and those of the batches before had {self._classes}")
        for entry in self._entries:
            entry.metric.update(*_labelled(entry, logits, target, classes))

    def _build(self, classes: int, device: torch.device) -> None:
        self._classes = classes
        for entry in self._entries:
            if entry.form == "classes" and not classes:
                raise DataError(f"{entry.name} needs logits [N, C] and class numbers [N], and both have the same shape")
            if entry.form == "numbers" and classes:
                raise DataError(
                    f"{entry.name} needs numbers of the target's shape, and the output has {classes} for each"
                )
            entry.metric = entry.build(classes)
            if isinstance(entry.metric, torch.nn.Module):
                entry.metric.to(device)
            if self.alone:  # what a metric of torchmetrics asks before it waits for others
                entry.metric.distributed_available_fn = _is_alone

    def _inside(self, target: Tensor, classes: int) -> Tensor:
        """Targets without the impossible ones, which are counted on the device for `compute`."""
        if target.is_floating_point():
            raise DataError(f"class numbers must be whole numbers, and the targets are {target.dtype}")
        target = target.long()
        outside = (target >= classes) | ((target < 0) & (target != UNLABELLED))
        count = outside.sum()
        self._outside = count if self._outside is None else self._outside.to(count.device) + count
        return target.masked_fill(outside, UNLABELLED)

    def compute(self) -> dict[str, float]:
        """The values over all batches since the last `reset`, by name; waits for the device.

        Raises:
            DataError: there was no batch, no row had a label, or a target is no class.
            UsageError: a metric gives more than one number.
        """
        if self._entries[0].metric is None:
            raise DataError("there is nothing to evaluate: the evaluation data had no batches")
        if self._outside is not None and int(self._outside):
            raise DataError(
                f"{int(self._outside)} targets are no class of the model, whose logits are of {self._classes} classes "
                f"(0 to {self._classes - 1}; -100 for no label)"
            )
        return {entry.name: self._value(entry) for entry in self._entries}

    def _value(self, entry: Entry) -> float:
        value = entry.metric.compute()
        if isinstance(value, Tensor) and value.numel() != 1:
            raise UsageError(
                f"the metric {entry.name!r} gives {value.numel()} numbers, and one is needed: choose an average"
            )
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise UsageError(
                f"the metric {entry.name!r} gives {type(value).__name__}, and a number is needed"
            ) from None
        rows = getattr(entry.metric, "rows", None)
        if number != number and isinstance(rows, Tensor) and not int(rows):
            raise DataError("there is nothing to evaluate: no row of the evaluation data has a label")
        return number


def _is_alone() -> bool:
    return False


def _rows(output: Tensor, target: Tensor) -> tuple[int, Tensor, Tensor]:
    """The number of classes with logits [R, C] and targets [R]; 0 with numbers as they came."""
    if output.ndim == target.ndim + 1 and output.shape != (*target.shape, 1):
        if output.shape[:-1] == target.shape:
            return output.shape[-1], output.reshape(-1, output.shape[-1]), target.reshape(-1)
        if output.shape[:1] + output.shape[2:] == target.shape:
            moved = output.movedim(1, -1)
            return output.shape[1], moved.reshape(-1, output.shape[1]), target.reshape(-1)
    if output.numel() == target.numel() and output.shape[:1] == target.shape[:1]:
        return 0, output.reshape(target.shape), target
    raise DataError(
        f"an output of shape {list(output.shape)} does not belong to a target of shape {list(target.shape)}"
    )


def _labelled(entry: Entry, logits: Tensor, target: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    if not classes or entry.skips_unlabelled:
        return logits, target
    counted = target != UNLABELLED
    return logits[counted], target[counted]
