"""The inputs that ``kdhooks cache build`` runs teachers on: those of the configuration's training data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kdhooks.criterion import teachers_by_name
from kdhooks.loop.stored_inputs import inputs_of, whole_epochs
from kdhooks.torch.data import build_dataloader
from kdhooks.torch.placement import batch_mover, data_seed, place, training_device


def training_inputs(distiller: Any, epochs: int) -> tuple[int | None, Iterator[tuple[Any, Any]]]:
    """How many rows there are in all, where that is known, and the batches of `kdhooks.loop.stored_inputs`.

    Args:
        distiller: the `Distillation`; its models are moved to where they train.
        epochs: how many.

    Raises:
        UsageError: the configuration has no training data.
    """
    conf = distiller.conf

    def build(settings: Any) -> Any:
        return build_dataloader(settings, seed=data_seed(conf), train=True, rank=0, world_size=1)

    loader = whole_epochs(conf, build, distributed=False)
    device = training_device(conf, distiller.student_model)
    place(distiller.student_model, teachers_by_name(distiller.teacher_model).values(), device)
    try:
        count = len(loader.dataset) * epochs
    except TypeError:  # a stream
        count = None
    return count, inputs_of(conf, loader, epochs, batch_mover(device))
