"""Loaders of batches that a configuration describes, as tensors of TensorFlow; images are [N, H, W, C].

Rules: which rows a batch has and how they are augmented is a function of (seed, epoch, batch), so threads, resumed
runs and a second pass over an epoch see the same batches, those of PyTorch's side; and no generator of the user's is
drawn from. Our own datasets are fetched a whole batch at a time; a user's go row by row.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.config.model import DataloaderSettings
from kdhooks.datasets import Arrays, build_dataset
from kdhooks.datasets.draws import Draws, key
from kdhooks.datasets.order import BatchOrder, BatchRows, EpochPosition
from kdhooks.datasets.replayed import ReplayedAugmentation
from kdhooks.errors import DataError, UsageError
from kdhooks.loop.batches import describe
from kdhooks_tf.transforms import Pipeline, own_randomness

__all__ = ["EpochLoader", "build_dataloader"]


class EpochLoader:
    """Batches whose every pass is an epoch of its own; made by `build_dataloader`.

    Each pass without `set_epoch` is the next epoch. Iterating draws nothing from anybody's generators.

    Attributes:
        position: the epoch that is served next; the order of the rows, where they have numbers.
        dataset: what the batches are made of, or None.

    >>> from kdhooks.config.model import Named
    >>> settings = DataloaderSettings(batch_size=4, shuffle=True, dataset=Named("dummy", {"size": 10}))
    >>> loader = build_dataloader(settings, seed=1978)
    >>> loader.set_epoch(3, start_batch=1)
    >>> [inputs.shape.as_list() for inputs, target in loader]
    [[4, 8, 8, 1], [2, 8, 8, 1]]
    """

    def __init__(
        self, position: EpochPosition, batches: Callable[[EpochPosition], Iterator[Any]], dataset: Any = None
    ) -> None:
        self.position, self.dataset = position, dataset
        self._batches = batches

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None:
        """Serve this epoch next; its first `start_batch` batches are not fetched (of an iterable: not served)."""
        self.position.set_epoch(epoch, start_batch)

    def __len__(self) -> int:
        """Batches of the present epoch; TypeError where the dataset can only be iterated."""
        if isinstance(self.position, BatchOrder):
            return len(self.position)
        raise TypeError("a dataset that can only be iterated has no length")

    def __iter__(self) -> Iterator[Any]:
        self.position.begin()
        return self._batches(self.position)


def build_dataloader(settings: DataloaderSettings, *, seed: int, train: bool = True) -> EpochLoader:
    """The loader that a configuration describes.

    Batches of `Arrays` are (inputs, targets); images [N, C, H, W] are served as [N, H, W, C], and uint8 becomes
    float32 from 0 to 1 before the transforms, unless these have ``ToTensor`` themselves. Transforms of a user's dataset
    act on the collated inputs of (inputs, target). With ``replays`` the order of the rows is another one in every
    epoch, and what is drawn for a row is that of epoch modulo ``replays``.

    Args:
        settings: ``dataloader`` of the configuration; ``num_workers`` threads make the batches of `Arrays`.
        seed: decides order and augmentation, together with the epoch.
        train: in evaluation ``last_batch: rollover`` keeps the short last batch instead.

    Raises:
        UsageError: an unknown name or option, or settings that a dataset cannot serve.
        DataError: data are missing, damaged or too few.
    """
    if settings.dataset is None:
        raise UsageError("the dataloader has no dataset: name one in the configuration, or set a dataloader in Python")
    if settings.distributed:
        raise UsageError(
            "distributed: true is not part of the built-in loop for TensorFlow: use a tf.distribute strategy"
        )
    named = settings.dataset
    data = build_dataset(named.name, named.options, [(each.name, each.options) for each in settings.filter])
    pipeline = Pipeline(settings.transform)
    if _is_stream(data, named.name):
        _check_stream(settings, named.name)
        return EpochLoader(EpochPosition(), _Stream(data, pipeline if settings.transform else None, settings, seed))
    order = BatchOrder(
        len(data),
        settings.batch_size,
        shuffle=settings.shuffle,
        last_batch="keep" if settings.last_batch == "rollover" and not train else settings.last_batch,
        seed=seed,
    )
    if isinstance(data, Arrays):
        return EpochLoader(
            order, _Prefetched(_ArraysBatches(data, pipeline, seed, settings.replays), settings.num_workers), data
        )
    # a user's rows may draw from the process's generators, so they are fetched where nobody else draws
    rows = _RowBatches(data, pipeline if settings.transform else None, seed, settings.replays)
    return EpochLoader(order, _Prefetched(rows, 0), data)


class _ArraysBatches:
    """`Arrays` as batches: (inputs [B, ...], targets [B])."""

    def __init__(self, data: Arrays, pipeline: Pipeline, seed: int, replays: int | None) -> None:
        self.data, self.pipeline, self.seed, self.replays = data, pipeline, seed, replays

    def __call__(self, batch: BatchRows) -> Any:
        inputs = np.asarray(self.data.inputs[batch.rows])
        if inputs.ndim == 4:
            inputs = inputs.transpose(0, 2, 3, 1)
        inputs = self.pipeline(inputs, Draws(self.seed, batch.epoch, batch.rows, replays=self.replays))
        return np.ascontiguousarray(inputs), self.data.targets[batch.rows]


class _RowBatches:
    """A user's map-style dataset as collated batches."""

    def __init__(self, data: Any, pipeline: Pipeline | None, seed: int, replays: int | None) -> None:
        self.data, self.pipeline, self.seed, self.replays = data, pipeline, seed, replays
        if replays is not None and not isinstance(data, ReplayedAugmentation):
            self.data = ReplayedAugmentation(data, replays, seed=seed)

    def __call__(self, batch: BatchRows) -> Any:
        numbers = batch.rows.tolist()
        with own_randomness(key("rows", self.seed, batch.epoch, batch.number) >> 1):
            replayed = isinstance(self.data, ReplayedAugmentation)
            rows = self.data.rows(numbers, batch.epoch) if replayed else [self.data[number] for number in numbers]
        draws = Draws(self.seed, batch.epoch, batch.rows, replays=self.replays)
        return _transformed(collated(rows), self.pipeline, draws)


class _Prefetched:
    """The batches of an order, made by threads ahead of the loop; none make them in the loop's own thread."""

    def __init__(self, make: Callable[[BatchRows], Any], threads: int) -> None:
        self._make, self._threads = make, threads

    def __call__(self, order: Any) -> Iterator[Any]:
        made = map(self._make, order) if not self._threads else self._ahead(iter(order))
        return map(as_tensors, made)

    def _ahead(self, rows: Iterator[BatchRows]) -> Iterator[Any]:
        with ThreadPoolExecutor(self._threads) as pool:
            waiting: deque[Future[Any]] = deque(pool.submit(self._make, one) for one in islice(rows, 2 * self._threads))
            try:
                while waiting:
                    yield waiting.popleft().result()
                    waiting.extend(pool.submit(self._make, one) for one in islice(rows, 1))
            finally:
                for future in waiting:
                    future.cancel()


class _Stream:
    """Batches of rows that can only be iterated."""

    def __init__(self, data: Any, pipeline: Pipeline | None, settings: DataloaderSettings, seed: int) -> None:
        self.data, self.pipeline, self.seed = data, pipeline, seed
        self.size, self.discard = settings.batch_size, settings.last_batch == "discard"

    def __call__(self, position: EpochPosition) -> Iterator[Any]:
        return self._served(position.epoch, position.start_batch)

    def _served(self, epoch: int, start: int) -> Iterator[Any]:
        rows = iter(self.data)
        number = 0
        while batch := list(islice(rows, self.size)):
            if len(batch) < self.size and self.discard:
                return
            if number >= start:
                numbers = np.arange(number * self.size, (number + 1) * self.size)
                yield as_tensors(_transformed(collated(batch), self.pipeline, Draws(self.seed, epoch, numbers)))
            number += 1


def _is_stream(data: Any, name: str) -> bool:
    """Whether a dataset can only be iterated; DataError where it is no dataset."""
    if isinstance(data, Arrays) or (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        return False
    if hasattr(data, "__iter__"):
        return True
    raise DataError(f"the dataset {name!r} is {describe(data)}, which has neither __getitem__ and __len__ nor __iter__")


def _check_stream(settings: DataloaderSettings, name: str) -> None:
    asked = {
        "shuffle: true": settings.shuffle,
        "last_batch: rollover": settings.last_batch == "rollover",
        "replays": settings.replays is not None,
    }
    for option, is_asked in asked.items():
        if is_asked:
            raise UsageError(f"{option} needs rows with numbers, and the dataset {name!r} can only be iterated")


def collated(rows: Iterable[Any]) -> Any:
    """Rows as one batch of NumPy arrays, in the form that the rows have.

    Raises:
        DataError: rows of different shapes or forms.

    >>> collated([(np.zeros(2), 1), (np.ones(2), 0)])[1].tolist()
    [1, 0]
    """
    listed = list(rows)
    first = listed[0]
    try:
        if isinstance(first, Mapping):
            return {name: collated([row[name] for row in listed]) for name in first}
        if isinstance(first, (tuple, list)):
            return tuple(collated(column) for column in zip(*listed, strict=True))
        batch = np.stack([np.asarray(row) for row in listed])
    except (TypeError, KeyError, ValueError) as problem:
        raise DataError(f"the rows of a batch do not fit together: {str(problem).splitlines()[0]}") from None
    return batch.astype(np.float32) if isinstance(first, float) else batch


def _transformed(batch: Any, pipeline: Pipeline | None, draws: Draws) -> Any:
    """The batch with transformed inputs."""
    if pipeline is None:
        return batch
    if not isinstance(batch, tuple) or not isinstance(batch[0], np.ndarray):
        raise DataError(f"transforms work on batches of (inputs, target), and this one is {describe(batch)}")
    return (pipeline(batch[0], draws.first(len(batch[0]))), *batch[1:])


def as_tensors(value: Any) -> Any:
    """The same nest of tuples and mappings with tensors in place of NumPy arrays and numbers."""
    if isinstance(value, Mapping):
        return {name: as_tensors(item) for name, item in value.items()}
    if isinstance(value, (tuple, list)):
        return tuple(as_tensors(item) for item in value)
    if isinstance(value, (np.ndarray, np.generic)):
        return tf.convert_to_tensor(value)
    return value
