"""The inputs that ``kdhooks cache build`` runs teachers on: those of the configuration's training data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from kdhooks.errors import UsageError
from kdhooks.loop.batches import split_batch
from kdhooks.loop.parts import located


def whole_epochs(conf: Any, build: Callable[[Any], Any], **changes: Any) -> Any:
    """The training's dataloader, with every row once an epoch and in order.

    That is also so where a training would leave a short last batch out; rows are augmented as the training will see
    them, which depends on the seed, the epoch and the row alone.

    Args:
        conf: a `DistillationConf`.
        build: makes the framework's dataloader from settings.
        changes: what else the settings have to say.

    Raises:
        UsageError: the configuration has no training data.
    """
    settings = conf.settings.distillation.train.dataloader
    if settings is None:
        raise UsageError("there is nothing to run the teacher on: name a dataset in distillation.train.dataloader")
    whole = replace(settings, last_batch="keep", shuffle=False, **changes)
    return located(conf, "distillation.train.dataloader", lambda: build(whole))


def inputs_of(
    conf: Any, loader: Any, epochs: int, move: Callable[[Any], Any] = lambda inputs: inputs
) -> Iterator[tuple[Any, Any]]:
    """Each batch's inputs and sample ids, over so many epochs from the first one that the training has.

    Args:
        conf: a `DistillationConf`.
        loader: of `whole_epochs`.
        epochs: how many.
        move: brings inputs to where the teacher is.
    """
    columns = conf.settings.distillation.train.dataloader.input_columns
    first = conf.settings.distillation.train.start_epoch
    for epoch in range(first, first + epochs):
        loader.set_epoch(epoch)
        for batch in loader:
            parts = split_batch(batch, inputs=conf.settings.model.inputs, input_columns=columns)
            yield move(parts.input), parts.sample_ids
