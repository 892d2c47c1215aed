"""The batches of the built-in loop, from the beginning of an epoch or from its middle.

Rules: an epoch that is continued serves the very batches that it would have served. Our own loaders jump to the
place. A user's loader is replayed: the generators get the states they had when the epoch began, the batches that
were trained on are fetched and dropped, and then the generators get the states of the checkpoint.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from kdhooks.datasets.order import EpochPosition
from kdhooks.errors import CheckpointError, DataError
from kdhooks.loop.batches import describe


class TrainingData:
    """A loader, with all that an epoch of it depends on; a backend's class knows the generators of its loaders.

    Args:
        loader: what serves the batches: a loader of ours, which has ``position``, or any iterable.
        generators: the backend, for the states of Python's, NumPy's and the framework's generators.
        limit: batches an epoch at most; None for all.

    Raises:
        DataError: the loader can't be iterated over.

    Attributes:
        start: the states with which the present epoch began; None between two epochs.
    """

    expected = "an iterable"
    """What a loader must be, for messages."""

    def __init__(self, loader: Any, generators: Any, limit: int | None = None) -> None:
        if not isinstance(loader, Iterable) and not hasattr(loader, "__getitem__"):
            raise DataError(f"train_dataloader must be {self.expected} of batches, not {describe(loader)}")
        self.loader, self.limit = loader, limit
        self.start: dict[str, Any] | None = None
        self._generators = generators

    def __len__(self) -> int:
        """Batches an epoch; TypeError where the loader does not know."""
        whole = len(self.loader)
        return whole if self.limit is None else min(whole, self.limit)

    def length(self) -> int | None:
        """Batches an epoch, or None where the loader does not know."""
        try:
            return len(self)
        except TypeError:
            return self.limit

    def states(self) -> dict[str, Any]:
        """The states of all generators, now."""
        own = {name: generator.get_state() for name, generator in self._own_generators()}
        return {"rng": self._generators.rng_state(), "loader": own}

    def restore(self, states: Mapping[str, Any]) -> None:
        """Put the states of all generators back."""
        self._generators.set_rng_state(states["rng"])
        for name, generator in self._own_generators():
            if name in states["loader"]:
                generator.set_state(states["loader"][name])

    def epoch(self, number: int) -> Iterator[Any]:
        """The batches of an epoch from its beginning."""
        self._set_epoch(number, 0)
        self.start = self.states()
        return islice(self._served(), self.limit)

    def rest_of_epoch(self, number: int, skip: int, start: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Any]:
        """The batches of an epoch after the first `skip`.

        Args:
            number: of the epoch.
            skip: batches that were trained on before the checkpoint.
            start: the states with which the epoch began.
            now: the states of the checkpoint.

        Raises:
            CheckpointError: the loader does not have as many batches.
        """
        self._set_epoch(number, skip)
        self.restore(start)
        self.start = dict(start)
        batches = self._served()
        if not jumps(self.loader):
            served = sum(1 for _ in islice(batches, skip))
            if served < skip:
                raise CheckpointError(
                    f"the checkpoint stands after batch {skip} of epoch {number}, and the train_dataloader has "
                    f"{served}: it is another one"
                )
        self.restore(now)
        return islice(batches, None if self.limit is None else max(0, self.limit - skip))

    def end_epoch(self) -> None:
        """The epoch is over."""
        self.start = None

    def _served(self) -> Iterator[Any]:
        """The batches of one pass."""
        return iter(self.loader)

    def _set_epoch(self, number: int, skip: int) -> None:
        if jumps(self.loader):
            self.loader.set_epoch(number, start_batch=skip)
            return
        for part in parts_of(self.loader).values():
            if callable(getattr(part, "set_epoch", None)):
                part.set_epoch(number)  # a part that two names reach is told twice, which changes nothing

    def _own_generators(self) -> list[tuple[str, Any]]:
        """The generators of a user's loader and samplers, each under its first name."""
        return []


def jumps(loader: Any) -> bool:
    """Whether a loader is one of ours, which serve an epoch from any batch on."""
    return isinstance(getattr(loader, "position", None), EpochPosition)


def parts_of(loader: Any) -> dict[str, Any]:
    """What may have an order of its own: the loader, its samplers and its dataset."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    parts = {
        "loader": loader,
        "sampler": getattr(loader, "sampler", None),
        "batch_sampler": batch_sampler,
        "batch_sampler.sampler": getattr(batch_sampler, "sampler", None),
        "dataset": getattr(loader, "dataset", None),
    }
    return {name: part for name, part in parts.items() if part is not None}
