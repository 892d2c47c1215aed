"""The batches of the built-in loop, of a ``keras.utils.PyDataset`` too; see `kdhooks.loop.training_data`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kdhooks.loop import training_data


class TrainingData(training_data.TrainingData):
    """A loader, with all that an epoch of it depends on: a ``tf.data.Dataset``, a ``PyDataset``, or any iterable."""

    expected = "a tf.data.Dataset, a keras PyDataset or another iterable"

    def _served(self) -> Iterator[Any]:
        return served(self.loader)


def served(loader: Any) -> Iterator[Any]:
    """The batches of one pass; a ``PyDataset`` has a number of them, and may tell nobody where they end."""
    if hasattr(loader, "__iter__") or not hasattr(loader, "__len__"):
        return iter(loader)
    return _by_number(loader)


def _by_number(loader: Any) -> Iterator[Any]:
    begin, end = getattr(loader, "on_epoch_begin", None), getattr(loader, "on_epoch_end", None)
    if callable(begin):
        begin()
    for number in range(len(loader)):
        yield loader[number]
    if callable(end):
        end()
