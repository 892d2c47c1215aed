"""Batches of rows that are mappings, and what a model predicts for them: the data side of `kdhooks.search.Trainer`.

Rules: those of `kdhooks.torch.data`: which rows a batch has is a function of (seed, epoch, batch), so that every
candidate of a search sees the same batches, and no generator of the user's is drawn from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from kdhooks.datasets.order import BatchOrder
from kdhooks.errors import DataError
from kdhooks.loop.batches import describe, split_batch
from kdhooks.messages import environment_rank
from kdhooks.torch.data import EpochLoader, RowBatches, as_fetched
from kdhooks.torch.outputs import as_call, logits_of
from kdhooks.torch.placement import batch_mover

PADDING = -100
"""What shorter predictions and labels are filled up with, as in transformers."""


def row_loader(
    rows: Any,
    collate: Callable[[list[Any]], Any],
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    num_workers: int = 0,
    shared: bool = False,
) -> EpochLoader:
    """A loader of a dataset's rows.

    Args:
        rows: anything with ``len`` and whole numbers as indices; with ``__getitems__`` a batch is fetched at once.
        collate: from a list of rows to a batch.
        batch_size: rows a batch and a rank.
        shuffle: another order in every epoch, the same for the same seed.
        seed: decides the order, and the chance in rows and collator.
        drop_last: whether a short last batch is left out.
        num_workers: processes that make batches; 0 makes them in the loop's own.
        shared: each of several processes that train together serves its own share of the rows.

    Raises:
        DataError: no dataset, no rows, or too few.
    """
    if isinstance(rows, IterableDataset) or not hasattr(rows, "__len__") or not hasattr(rows, "__getitem__"):
        raise DataError(
            f"a dataset must have len() and rows by number, and this one is {describe(rows)}: give a dataloader instead"
        )
    rank, world_size = _share() if shared else (0, 1)
    order = BatchOrder(
        len(rows),
        batch_size,
        shuffle=shuffle,
        last_batch="discard" if drop_last else "keep",
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    return EpochLoader(
        RowBatches(rows, None, seed, None, collate),
        position=order,
        seed=seed,
        pipeline=None,
        batch_sampler=order,
        collate_fn=as_fetched,
        num_workers=num_workers,
        persistent_workers=num_workers > 0,
    )


def _share() -> tuple[int, int]:
    """Rank and number of the processes that train together, also before they are a group."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    started = int(os.environ.get("WORLD_SIZE", "1"))
    return (environment_rank(), started) if started > 1 else (0, 1)


@torch.no_grad()
def predictions(
    model: nn.Module,
    loader: Any,
    *,
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    limit: int | None = None,
    preprocess: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """What a model predicts for all batches, and their labels.

    Args:
        model: in evaluation mode.
        loader: of batches as the built-in loop takes them.
        inputs: fields of a batch that go to the model; all but the labels where it is empty.
        outputs: keys of the model's output that hold the logits.
        limit: batches at most.
        preprocess: (logits, labels) -> what is kept, as ``preprocess_logits_for_metrics`` of transformers.

    Returns:
        Logits [N, C] or [N, T, C] and labels [N] or [N, T]; batches of different T are filled up with `PADDING`.

    Raises:
        DataError: there was no batch, or its labels are no tensor.
    """
    device = next((one.device for one in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    move = batch_mover(device)
    found: list[tuple[NDArray[Any], NDArray[Any]]] = []
    if hasattr(loader, "set_epoch"):
        loader.set_epoch(0)  # the same batches for every candidate
    for batch in islice(loader, limit):
        parts = split_batch(batch, inputs=inputs)
        if not isinstance(parts.target, Tensor):
            raise DataError(f"the labels of a batch must be a tensor, and these are {describe(parts.target)}")
        args, kwargs = as_call(move(parts.input))
        logits, labels = logits_of(model(*args, **kwargs), outputs), move(parts.target)
        kept = logits if preprocess is None else preprocess(logits, labels)
        found.append((_array(kept), _array(labels)))
    if not found:
        raise DataError("there is nothing to evaluate: the evaluation data had no batches")
    return _joined([logits for logits, _ in found]), _joined([labels for _, labels in found])


def _array(tensor: Tensor) -> NDArray[Any]:
    held = tensor.detach().float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor.detach()
    return np.asarray(held.cpu().numpy())


def _joined(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """One array of all rows; axis 1 is as long as the longest."""
    if parts[0].ndim < 2:
        return np.concatenate(parts)
    longest = max(part.shape[1] for part in parts)
    padded = [
        np.pad(part, [(0, 0), (0, longest - part.shape[1]), *[(0, 0)] * (part.ndim - 2)], constant_values=PADDING)
        for part in parts
    ]
    return np.concatenate(padded)
