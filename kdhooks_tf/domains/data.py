"""The target domain's data: loaders that a configuration names, and what a model predicts on them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.config.model import DataloaderSettings
from kdhooks.domains import adapts
from kdhooks.domains.batches import split_target
from kdhooks.domains.cycle import TargetBatches
from kdhooks.domains.loaders import loader_of
from kdhooks.domains.validators import spread
from kdhooks.errors import DataError, UsageError
from kdhooks_tf.data import as_tensors, build_dataloader
from kdhooks_tf.outputs import as_call, logits_of
from kdhooks_tf.placement import data_seed
from kdhooks_tf.training_data import TrainingData, served


def target_loader(distiller: Any, *, evaluation: bool) -> Any:
    """The target domain's batches: what is set on the distiller, or what the configuration names, or None.

    Args:
        distiller: the `Distillation`.
        evaluation: whether those for validators are meant, not those to train on.

    Raises:
        ConfigError: an unknown dataset or transform, or options that don't fit.
    """
    seed = data_seed(distiller.conf)

    def build(settings: DataloaderSettings) -> Any:
        return build_dataloader(settings, seed=seed, train=not evaluation)

    return loader_of(distiller, build, evaluation=evaluation)


def target_batches(distiller: Any) -> TargetBatches | None:
    """The batches that `fit()` serves beside the source's, where the run adapts to a domain.

    Raises:
        UsageError: there are none.
    """
    adapting = next(filter(adapts, distiller.summed_criteria()), None)
    if adapting is None:
        return None
    loader = target_loader(distiller, evaluation=False)
    if loader is None:
        raise UsageError(
            "there is no target domain to adapt to: set distiller.target_dataloader, or name a dataset in "
            "domain_adaptation.dataloader"
        )
    inputs, columns = columns_of(distiller, evaluation=False)
    data = TrainingData(loader, distiller.backend, None)
    return TargetBatches(data, inputs=inputs, input_columns=columns, labels=adapting.settings.target_labels)


def columns_of(distiller: Any, *, evaluation: bool) -> tuple[Any, Any]:
    """``model.inputs``, and what the columns of the target's batches are."""
    settings = distiller.conf.settings
    section = settings.domain_adaptation
    named = None if section is None else section.eval_dataloader if evaluation else section.dataloader
    return settings.model.inputs, () if named is None else named.input_columns


def target_logits(distiller: Any, model: Any, loader: Any) -> Any:
    """The logits [N, C] of the target domain's rows, on the host; generators go on as they were.

    Args:
        distiller: the `Distillation`.
        model: the student.
        loader: of the target.

    Raises:
        DataError: it has no batch.
    """
    inputs, columns = columns_of(distiller, evaluation=True)
    before, found = distiller.backend.rng_state(), []
    try:
        for batch in served(loader):
            given, _ = split_target(as_tensors(batch), inputs=inputs, input_columns=columns)
            args, kwargs = as_call(model, given)
            logits = logits_of(model(*args, training=False, **kwargs), distiller.conf.settings.model.outputs)
            found.append(positions(tf.cast(logits, tf.float32).numpy()))
    finally:
        distiller.backend.set_rng_state(before)
    if not found:
        raise DataError("the target_eval_dataloader has no batch; a generator can be iterated over only once")
    return np.concatenate(found)


def positions(logits: Any, most: int = 4096) -> Any:
    """Logits [M, C] or [M, ..., C] as rows [N, C]; of the many pixels of a map every so many-th."""
    rows = logits.reshape(-1, logits.shape[-1])
    return rows if logits.ndim == 2 else rows[spread(len(rows), most)]
