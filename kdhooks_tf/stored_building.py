"""The inputs that ``kdhooks cache build`` runs teachers on: those of the configuration's training data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kdhooks.loop.stored_inputs import inputs_of, whole_epochs
from kdhooks_tf.data import build_dataloader
from kdhooks_tf.placement import data_seed


def training_inputs(distiller: Any, epochs: int) -> tuple[int | None, Iterator[tuple[Any, Any]]]:
    """How many rows there are in all, where that is known, and the batches of `kdhooks.loop.stored_inputs`.

    Args:
        distiller: the `Distillation`.
        epochs: how many.

    Raises:
        UsageError: the configuration has no training data.
    """
    conf = distiller.conf
    loader = whole_epochs(conf, lambda settings: build_dataloader(settings, seed=data_seed(conf), train=True))
    rows = getattr(loader.position, "rows", None)
    return None if rows is None else int(rows) * epochs, inputs_of(conf, loader, epochs)
