"""Teacher and student on the first validation loader, for the record of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from kdhooks.compared import NoLook
from kdhooks.loop.batches import Batch
from kdhooks.torch.looks import TorchLooks
from kdhooks.torch.outputs import as_call
from kdhooks.torch.placement import batch_mover
from kdhooks.training.batches import Calls
from kdhooks.training.outputs import as_logits

_OWN_TEST = "inference_pipeline tests the student, and nothing else is asked of it"


class ValidationRows:
    """The batches of a loader, with student and teacher called alike, as the teacher is in training.

    Labels that only the student would get are left out, so that it returns logits and computes no loss of its own.

    Args:
        loader: of the validation.
        calls: at temperature 1.
    """

    def __init__(self, loader: Any, calls: Calls) -> None:
        self.loader, self._calls = loader, calls

    def batches(self) -> Iterator[Batch]:
        """Inputs and labels."""
        for batch in self.loader:
            given = self._calls.split(batch)
            yield Batch(given.teacher_input, given.labels)

    def forward_of(self, model: nn.Module) -> Callable[[Batch], tuple[Any, Any]]:
        """A function that gives a model's logits for a batch, and the labels."""
        first = next((one.device for one in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        move = batch_mover(first)

        def forward(parts: Batch) -> tuple[Any, Any]:
            args, kwargs = as_call(move(parts.input))
            return as_logits(model(*args, **kwargs), temperature=1, softened=False, model="model"), parts.target

        return forward

    def count_batches(self) -> int | None:
        """How many there are, where the loader tells."""
        return len(self.loader) if hasattr(self.loader, "__len__") else None

    def by_itself(self) -> AbstractContextManager[None]:
        """Within the block nothing waits for other processes, as nothing here does anyway."""
        return nullcontext()

    def __call__(self, model: nn.Module) -> tuple[dict[str, float], float, bool]:
        """What the validation finds; of the student it stands in the history."""
        raise NoLook(_OWN_TEST)


class TrainingLooks(TorchLooks):
    """The models of a run of the ready-made loop.

    Args:
        distiller: the `Distillation`.
        loader: the first one of the validation, or None.
        calls: at temperature 1.

    Raises:
        NoLook: a model is spread over processes, or has no parameters yet.
    """

    no_data = "there are no evaluation data: val_data_loaders is None"

    def __init__(self, distiller: Any, loader: Any, calls: Calls) -> None:
        super().__init__(distiller, distiller.backend)
        if isinstance(loader, Iterator):
            raise NoLook("the first of val_data_loaders is an iterator, which can be gone through once")
        self._evaluation: Any = None if loader is None else ValidationRows(loader, calls)
