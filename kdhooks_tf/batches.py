"""The first batch of the training data, for what needs shapes before the first step."""

from __future__ import annotations

from typing import Any

from kdhooks.datasets.order import EpochPosition
from kdhooks.loop.batches import split_batch
from kdhooks.loop.training_data import jumps
from kdhooks_tf.data import as_tensors
from kdhooks_tf.stored_dataset import without_stored
from kdhooks_tf.training_data import served


def first_input(distiller: Any) -> Any:
    """The first input of the training data as tensors, or None; the loader stands afterwards where it stood."""
    loader, settings = distiller.train_dataloader, distiller.conf.settings
    columns = settings.distillation.train.dataloader
    if loader is None:
        return None
    kept = vars(loader.position).copy() if jumps(loader) else {}
    try:
        batches = served(loader)
        batch = None if batches is loader else next(iter(batches), None)  # an iterator's batch would be lost
    finally:
        if kept:
            position: EpochPosition = loader.position
            vars(position).update(kept)
    if batch is None:
        return None
    input_columns = () if columns is None else columns.input_columns
    batch, _ = without_stored(batch)
    if isinstance(batch, (tuple, list)) and len(batch) == 3 and not input_columns:
        batch = batch[:2]  # Keras's third is the weight of the samples
    return split_batch(as_tensors(batch), inputs=settings.model.inputs, input_columns=input_columns).input
