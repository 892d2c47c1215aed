"""Loaders of batches that a configuration describes.

Rules: which rows a batch has and how they are augmented is a function of (seed, epoch, batch), so workers,
resumed runs and a second pass over an epoch see the same batches; and no generator of the user's is drawn from.
Our own datasets are fetched a whole batch at a time; a user's go row by row through torch's collate function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from kdhooks.config.model import DataloaderSettings
from kdhooks.datasets import Arrays, build_dataset
from kdhooks.datasets.draws import Draws, key
from kdhooks.datasets.order import BatchOrder, BatchRows, EpochPosition
from kdhooks.datasets.replayed import ReplayedAugmentation
from kdhooks.errors import DataError, UsageError
from kdhooks.loop.batches import Batch, split_batch
from kdhooks.torch.outputs import describe
from kdhooks.torch.transforms import Pipeline, own_randomness

__all__ = ["Batch", "EpochLoader", "build_dataloader", "split_batch"]


class EpochLoader(DataLoader[Any]):
    """A ``DataLoader`` whose every pass is an epoch of its own; made by `build_dataloader`.

    Each pass without `set_epoch` is the next epoch. Iterating draws nothing from torch's, NumPy's or Python's
    global generators.

    Attributes:
        position: the epoch that is served next; the batch sampler, where rows have numbers.
        seed: of order and augmentation.

    >>> from kdhooks.config.model import Named
    >>> settings = DataloaderSettings(batch_size=4, shuffle=True, dataset=Named("dummy", {"size": 10}))
    >>> loader = build_dataloader(settings, seed=1978)
    >>> loader.set_epoch(3, start_batch=1)
    >>> [len(target) for inputs, target in loader]
    [4, 2]
    """

    def __init__(
        self, dataset: Dataset[Any], *, position: EpochPosition, seed: int, pipeline: Pipeline | None, **options: Any
    ) -> None:
        generator = torch.Generator()
        super().__init__(dataset, generator=generator, pin_memory=torch.cuda.is_available(), **options)
        self.position, self.seed = position, seed
        self._pipeline = pipeline

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Serve this epoch next; its first `start_batch` batches are not fetched (of an iterable: not served)."""
        self.position.set_epoch(epoch, start_batch)

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        self.position.begin()
        # Workers seed their own generators from this one: the same in every run of this epoch.
        self.generator.manual_seed(key("workers", self.seed, self.position.epoch) >> 1)
        batches = super().__iter__()
        if isinstance(self.position, BatchOrder):
            return batches
        return self._streamed(batches, self.position.epoch, self.position.start_batch)

    def _streamed(self, batches: Iterable[Any], epoch: int, start: int) -> Iterator[Any]:
        for number, batch in islice(enumerate(batches), start, None):
            size = self.batch_size or 1
            rows = np.arange(number * size, (number + 1) * size)
            yield _transformed(batch, self._pipeline, Draws(self.seed, epoch, rows))


class _ArraysBatches(Dataset[Any]):
    """`Arrays` as batches: (inputs [B, ...], targets [B])."""

    def __init__(self, data: Arrays, pipeline: Pipeline, seed: int, replays: int | None) -> None:
        self.data, self.pipeline, self.seed, self.replays = data, pipeline, seed, replays

    @property
    def classes(self) -> Any:
        """The names of the classes, where the data have them."""
        return getattr(self.data, "classes", None) or None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> Any:
        inputs, targets = self.__getitems__(BatchRows(0, 0, np.array([row])))
        return inputs[0], targets[0]

    def __getitems__(self, batch: BatchRows) -> Any:
        inputs = torch.from_numpy(np.ascontiguousarray(self.data.inputs[batch.rows]))
        inputs = self.pipeline(inputs, Draws(self.seed, batch.epoch, batch.rows, replays=self.replays))
        return inputs, torch.from_numpy(self.data.targets[batch.rows])


class RowBatches(Dataset[Any]):
    """A user's map-style dataset as collated batches; without `collate`, by torch's function."""

    def __init__(
        self,
        data: Any,
        pipeline: Pipeline | None,
        seed: int,
        replays: int | None,
        collate: Callable[[list[Any]], Any] | None = None,
    ) -> None:
        self.data, self.pipeline, self.seed, self.replays = data, pipeline, seed, replays
        self.collate = _collated if collate is None else collate
        if replays is not None and not isinstance(data, ReplayedAugmentation):
            self.data = ReplayedAugmentation(data, replays, seed=seed)

    @property
    def classes(self) -> Any:
        """The names of the classes, where the data have them."""
        return getattr(self.data, "classes", None) or None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> Any:
        return self.data[row]

    def __getitems__(self, batch: BatchRows) -> Any:
        numbers = batch.rows.tolist()
        # A worker's generators depend on what it fetched before; these depend on the batch only.
        with own_randomness(key("rows", self.seed, batch.epoch, batch.number) >> 1):
            made = self.collate(self._fetch(numbers, batch.epoch))  # a collator may mask tokens by chance
        draws = Draws(self.seed, batch.epoch, batch.rows, replays=self.replays)
        return _transformed(made, self.pipeline, draws)

    def _fetch(self, numbers: list[int], epoch: int) -> Any:
        if isinstance(self.data, ReplayedAugmentation):
            return self.data.rows(numbers, epoch)
        fetch = getattr(self.data, "__getitems__", None)
        return fetch(numbers) if callable(fetch) else [self.data[number] for number in numbers]


class _Stream(IterableDataset[Any]):
    """Any iterable as torch's iterable dataset."""

    def __init__(self, data: Iterable[Any]) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)


def build_dataloader(
    settings: DataloaderSettings, *, seed: int, train: bool = True, rank: int = 0, world_size: int = 1
) -> EpochLoader:
    """The loader that a configuration describes.

    Batches of `Arrays` are (inputs, targets) on the host. Images of uint8 become float32 from 0 to 1 before the
    transforms, unless these have ``ToTensor`` themselves. Transforms of a user's dataset act on the collated
    inputs of (inputs, target). With ``replays`` the order of the rows is another one in every epoch, and what is drawn
    for a row is that of epoch modulo ``replays``.

    Args:
        settings: ``dataloader`` of the configuration.
        seed: decides order and augmentation, together with the epoch.
        train: in evaluation ``last_batch: rollover`` keeps the short last batch instead.
        rank: of this process.
        world_size: how many processes share the rows where ``distributed`` is set.

    Returns:
        A ``DataLoader`` with ``set_epoch(epoch, start_batch=0)``.

    Raises:
        UsageError: an unknown name or option, or settings that a dataset cannot serve.
        DataError: data are missing, damaged or too few.
    """
    if settings.dataset is None:
        raise UsageError("the dataloader has no dataset: name one in the configuration, or set a dataloader in Python")
    named = settings.dataset
    data = build_dataset(named.name, named.options, [(each.name, each.options) for each in settings.filter])
    pipeline = Pipeline(settings.transform)
    shared: dict[str, Any] = {"seed": seed, "num_workers": settings.num_workers}
    if _is_stream(data, named.name):
        _check_stream(settings, named.name)
        stream = data if isinstance(data, IterableDataset) else _Stream(data)
        return EpochLoader(
            stream,
            position=EpochPosition(),
            pipeline=pipeline if settings.transform else None,
            batch_size=settings.batch_size,
            drop_last=settings.last_batch == "discard",
            collate_fn=_collated,
            **shared,
        )
    order = BatchOrder(
        len(data),
        settings.batch_size,
        shuffle=settings.shuffle,
        last_batch="keep" if settings.last_batch == "rollover" and not train else settings.last_batch,
        seed=seed,
        rank=rank if settings.distributed else 0,
        world_size=world_size if settings.distributed else 1,
    )
    batches: Dataset[Any] = (
        _ArraysBatches(data, pipeline, seed, settings.replays)
        if isinstance(data, Arrays)
        else RowBatches(data, pipeline if settings.transform else None, seed, settings.replays)
    )
    return EpochLoader(
        batches,
        position=order,
        pipeline=None,
        batch_sampler=order,
        collate_fn=as_fetched,
        persistent_workers=settings.num_workers > 0,
        **shared,
    )


def _is_stream(data: Any, name: str) -> bool:
    """Whether a dataset can only be iterated; DataError where it is no dataset."""
    if isinstance(data, DataLoader):
        raise UsageError(
            f"the dataset {name!r} is a DataLoader; return the dataset itself, or set a dataloader in Python"
        )
    if isinstance(data, IterableDataset):
        return True
    if isinstance(data, Arrays) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return False
    if hasattr(data, "__iter__"):
        return True
    raise DataError(f"the dataset {name!r} is {describe(data)}, which has neither __getitem__ and __len__ nor __iter__")


def _check_stream(settings: DataloaderSettings, name: str) -> None:
    asked = {
        "shuffle: true": settings.shuffle,
        "distributed: true": settings.distributed,
        "last_batch: rollover": settings.last_batch == "rollover",
        "replays": settings.replays is not None,
    }
    for option, is_asked in asked.items():
        if is_asked:
            raise UsageError(f"{option} needs rows with numbers, and the dataset {name!r} can only be iterated")


def _collated(rows: list[Any]) -> Any:
    try:
        return default_collate(rows)
    except (TypeError, RuntimeError, KeyError, ValueError) as problem:
        raise DataError(f"the rows of a batch do not fit together: {str(problem).splitlines()[0]}") from None


def as_fetched(batch: Any) -> Any:
    """The batch itself: the dataset has collated it."""
    return batch


def _transformed(batch: Any, pipeline: Pipeline | None, draws: Draws) -> Any:
    """The batch with transformed inputs."""
    if pipeline is None:
        return batch
    if isinstance(batch, Mapping) or not isinstance(batch, (tuple, list)) or not isinstance(batch[0], torch.Tensor):
        raise DataError(f"transforms work on batches of (inputs, target), and this one is {describe(batch)}")
    return (pipeline(batch[0], draws.first(len(batch[0]))), *batch[1:])
