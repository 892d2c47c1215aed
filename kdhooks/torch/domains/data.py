"""The target domain's data: loaders that a configuration names, and what a model predicts on them."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdhooks.config.model import DataloaderSettings
from kdhooks.domains.batches import split_target
from kdhooks.domains.loaders import loader_of
from kdhooks.domains.validators import spread
from kdhooks.errors import DataError
from kdhooks.speed import Choice
from kdhooks.torch.data import EpochLoader, build_dataloader
from kdhooks.torch.memory_format import input_layout
from kdhooks.torch.outputs import as_call, logits_of
from kdhooks.torch.placement import autocast, batch_mover, data_seed
from kdhooks.torch.student_choice import choice_of


def target_loader(distiller: Any, *, evaluation: bool, trains: bool = False, rank: int = 0, world_size: int = 1) -> Any:
    """The target domain's batches: what is set on the distiller, or what the configuration names, or None.

    Args:
        distiller: the `Distillation`.
        evaluation: whether those for validators are meant, not those to train on.
        trains: whether a run will be in the middle of a pass over it, so that nobody else may begin one.
        rank: of this process.
        world_size: how many share the rows where ``distributed`` is set.

    Raises:
        ConfigError: an unknown dataset or transform, or options that don't fit.
    """
    seed = data_seed(distiller.conf)
    shares: dict[str, Any] = {"rank": rank, "world_size": world_size} if trains else {}

    def build(settings: DataloaderSettings) -> Any:
        return build_dataloader(settings, seed=seed, train=not evaluation, **shares)

    return loader_of(distiller, build, evaluation=evaluation, trains=trains)


@torch.no_grad()
def target_logits(distiller: Any, model: nn.Module, loader: Any) -> Any:
    """The logits [N, C] of the target domain's rows, on the host; generators go on as they were.

    Args:
        distiller: the `Distillation`.
        model: the student, in evaluation mode.
        loader: of the target.

    Raises:
        DataError: it has no batch.
    """
    generators = distiller.backend.rng_state()
    try:
        found = [logits.float().cpu().numpy() for logits in _predicted(distiller, model, loader)]
    finally:
        distiller.backend.set_rng_state(generators)
    if not found:
        raise DataError("the target_eval_dataloader has no batch; a generator can be iterated over only once")
    return np.concatenate(found)


def _predicted(distiller: Any, model: nn.Module, loader: Any) -> Any:
    settings = distiller.conf.settings
    section = settings.domain_adaptation
    named = None if section is None else section.eval_dataloader
    columns = () if named is None else named.input_columns
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    move, choice = batch_mover(device), choice_of(model) or _asked(settings.distillation.train.precision)
    lay = input_layout(choice.channels_last)
    if isinstance(loader, EpochLoader):
        loader.set_epoch(0)  # the same batches at every evaluation
    for batch in islice(loader, None):
        given, _ = split_target(batch, inputs=settings.model.inputs, input_columns=columns)
        args, kwargs = as_call(lay(move(given)))
        with autocast(choice.precision, device):
            logits: Tensor = logits_of(model(*args, **kwargs), settings.model.outputs)
        yield positions(logits)


def _asked(precision: Any) -> Choice:
    return Choice(None if precision == "auto" else precision)


def positions(logits: Tensor, most: int = 4096) -> Tensor:
    """Logits [M, C] or [M, C, ...] as rows [N, C]; of the many pixels of a map every so many-th."""
    if logits.ndim == 2:
        return logits
    rows = logits.movedim(1, -1).flatten(0, -2)
    return rows[spread(len(rows), most)]
