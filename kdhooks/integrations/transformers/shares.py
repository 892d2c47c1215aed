"""What share of a batch a micro-batch is, so that distillation is normalised as the `Trainer`'s own loss is.

With gradient accumulation a `Trainer` either divides each micro-batch's loss by their number itself, and then nothing
is to do here; or the loss of each is a sum over its items, divided by the items of all (`num_items_in_batch`), on all
processes perhaps. A term of ours is a mean over the micro-batch's positions; times the share of these among all it is
the same sum, divided by the same number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kdhooks.integrations.transformers.batches import counted_labels, size_of
from kdhooks.torch.student_loss import UNLABELLED


class Shares:
    """The shares of one training.

    Args:
        trainer: whose loss it is.
        main: the name of the student's main input.
        shifts: whether a label stands one place behind its logits.
        features: whether any term looks at hidden features, whose positions are counted by themselves.
    """

    def __init__(self, trainer: Any, main: str, shifts: bool, *, features: bool) -> None:
        self._trainer, self._main, self._shifts, self._features = trainer, main, shifts, features
        tensor_parallel = getattr(trainer, "get_tp_size", lambda: 1)()
        self._processes = int(trainer.accelerator.num_processes) // int(tensor_parallel)
        self._size: Any = None

    def begin(self, samples: list[Any]) -> None:
        """A batch begins that consists of these micro-batches."""
        self._size = None
        together = self._averages and self._processes > 1
        if not self._features or not (together or len(samples) > 1):
            return
        if not all(isinstance(one, Mapping) for one in samples):
            return
        total = sum(size_of(one, self._main) for one in samples)
        if together:
            here = torch.as_tensor(total, device=self._trainer.args.device)
            total = self._trainer.accelerator.gather(here).sum()
        self._size = total

    def of(self, inputs: Mapping[str, Any], items: Any) -> tuple[Any, Any] | None:
        """The share of a micro-batch for terms on logits, and for terms on features; None where there is nothing to do.

        Args:
            inputs: the micro-batch, with its labels.
            items: ``num_items_in_batch``, or None.
        """
        if not self._scaled(items):
            return None
        parts = 1 / max(1, int(getattr(self._trainer, "current_gradient_accumulation_steps", 1)))
        labels = counted_labels(inputs, self._shifts)
        if items is None or labels is None:
            return parts, parts
        times = self._processes if self._averages else 1
        share = labels.ne(UNLABELLED).sum() * times / _on(items, labels)
        if not self._features:
            return share, share
        if self._size is None:
            return share, parts
        return share, size_of(inputs, self._main) * times / _on(self._size, labels)

    def parts(self, items: Any) -> int:
        """By what the `Trainer` will divide the loss itself."""
        return 1 if self._scaled(items) else int(getattr(self._trainer, "current_gradient_accumulation_steps", 1))

    @property
    def _averages(self) -> bool:
        return bool(self._trainer.args.average_tokens_across_devices)

    def _scaled(self, items: Any) -> bool:
        """Whether the `Trainer` takes its loss for one that is normalised over the whole batch."""
        trainer = self._trainer
        said: bool | None = getattr(trainer, "loss_is_scaled_for_ga", None)
        if said is not None:
            return said
        return (trainer.model_accepts_loss_kwargs and items is not None) or trainer.compute_loss_func is not None


def _on(number: Any, beside: Tensor) -> Any:
    return number.to(beside.device) if isinstance(number, Tensor) else number
