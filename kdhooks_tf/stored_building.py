"""The inputs that ``kdhooks cache build`` runs teachers on: those of the configuration's training data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from kdhooks.errors import UsageError
from kdhooks.loop.batches import split_batch
from kdhooks.loop.parts import located
from kdhooks_tf.data import build_dataloader
from kdhooks_tf.placement import data_seed


def training_inputs(distiller: Any, epochs: int) -> tuple[int | None, Iterator[tuple[Any, Any]]]:
    """How many rows there are in all, where that is known, and the batches.

    Every row comes once an epoch, in order, also where a training would leave a short last batch out; augmented as
    the training will see it, which depends on the seed, the epoch and the row alone.

    Args:
        distiller: the `Distillation`.
        epochs: how many.

    Raises:
        UsageError: the configuration has no training data.
    """
    conf = distiller.conf
    settings = conf.settings.distillation.train.dataloader
    if settings is None:
        raise UsageError("there is nothing to run the teacher on: name a dataset in distillation.train.dataloader")
    whole = replace(settings, last_batch="keep", shuffle=False)
    path = "distillation.train.dataloader"
    loader = located(conf, path, lambda: build_dataloader(whole, seed=data_seed(conf), train=True))

    def batches() -> Iterator[tuple[Any, Any]]:
        first = conf.settings.distillation.train.start_epoch
        for epoch in range(first, first + epochs):
            loader.set_epoch(epoch)
            for batch in loader:
                parts = split_batch(batch, inputs=conf.settings.model.inputs, input_columns=whole.input_columns)
                yield parts.input, parts.sample_ids

    rows = getattr(loader.position, "rows", None)
    return None if rows is None else int(rows) * epochs, batches()
