"""The training loader as Lightning should see it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch.utils.data import DataLoader, IterableDataset, SequentialSampler
from torch.utils.data.distributed import DistributedSampler

_KEPT = (
    "batch_size",
    "num_workers",
    "collate_fn",
    "pin_memory",
    "drop_last",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
    "generator",
    "prefetch_factor",
    "persistent_workers",
)
"""What a loader for a part of the rows has of the user's."""


class Batches:
    """A list of batches, which Lightning would take for a list of loaders."""

    def __init__(self, batches: Sequence[Any]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)

    def __len__(self) -> int:
        return len(self._batches)


def for_lightning(loader: Any, rank: int, size: int) -> Any:
    """The user's loader, or where Lightning would do something else with it, one that does what the user's says.

    Lightning gives every process its part of the rows, and shuffles them even if the loader does not: one that keeps
    the order gets its parts here.

    Args:
        loader: the user's.
        rank: of this process.
        size: how many processes there are.
    """
    if isinstance(loader, (list, tuple)):
        return Batches(loader)
    if size == 1 or type(loader) is not DataLoader or isinstance(loader.dataset, IterableDataset):
        return loader
    if loader.batch_size is None or type(loader.sampler) is not SequentialSampler:
        return loader
    sampler: Any = DistributedSampler(loader.dataset, size, rank, shuffle=False, drop_last=loader.drop_last)
    options: dict[str, Any] = {name: getattr(loader, name) for name in _KEPT}
    return DataLoader(loader.dataset, sampler=sampler, **options)
