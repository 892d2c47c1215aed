"""Random augmentation that repeats every few epochs, so that what a teacher said of an image can be used again.

Rules: what a row's augmentation draws is decided by (seed, epoch modulo replays, row) and by nothing else: not by
the batch, the worker, or what was drawn before. The states of the generators that a user's loop draws from are
afterwards what they were. torch is seeded only where somebody has imported it.
"""

from __future__ import annotations

import multiprocessing
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.context import get_spawning_popen
from typing import Any

import numpy as np

from kdhooks.datasets.draws import key
from kdhooks.errors import DataError, UsageError

_DEPTH = 8  # datasets inside of datasets
_CHECKED = 8  # rows that are fetched twice: a flip that seeds don't reach comes out the same half of the time


class ReplayedAugmentation:
    """A map-style dataset whose random augmentation is that of epoch modulo `replays`.

    Inside of ``dataset[row]`` Python's, NumPy's and torch's (CPU) global generators begin from (seed, epoch modulo
    `replays`, row); generators that are made there from global numbers, as in
    ``numpy.random.default_rng(numpy.random.randint(2**31))``, follow. What seeds don't reach is found out on the first
    few rows of each process, which are fetched twice, and refused.

    The epoch is told by `Distillation` (in `fit()`, and in a loop of one's own where it knows the dataloader), or by
    `set_epoch`; workers that are alive see it. Where nobody tells it, each pass of ``for row in dataset`` is the next
    epoch. It is shared with worker processes, and not with pickled or copied datasets.

    Args:
        dataset: has ``__getitem__`` and ``__len__``; ``__getitems__`` is not used, since rows are seeded one by one.
        replays: how many different augmentations of a row there are.
        seed: of all augmentations.

    Raises:
        UsageError: `replays` is no number from 1.
        DataError: the dataset has no rows with numbers, or draws from what seeds don't reach.

    >>> class Noisy:
    ...     def __len__(self):
    ...         return 3
    ...     def __getitem__(self, row):
    ...         return row + random.random()
    >>> data = ReplayedAugmentation(Noisy(), replays=2, seed=1978)
    >>> epochs = [list(data) for _ in range(4)]
    >>> epochs[0] == epochs[2], epochs[1] == epochs[3], epochs[0] == epochs[1]
    (True, True, False)
    """

    def __init__(self, dataset: Any, replays: int, *, seed: int = 0) -> None:
        if isinstance(replays, bool) or not isinstance(replays, int) or replays < 1:
            raise UsageError(f"ReplayedAugmentation: replays must be a whole number of at least 1, not {replays!r}")
        if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__")):
            raise DataError(
                "ReplayedAugmentation needs rows with numbers, and a "
                f"{type(dataset).__name__} has no __getitem__ and __len__"
            )
        self.dataset, self.replays, self.seed = dataset, replays, seed
        self._epoch: Any = multiprocessing.RawValue("q", 0)
        self._served, self._checked = False, 0

    @property
    def epoch(self) -> int:
        """The epoch whose augmentations are served."""
        return int(self._epoch.value)

    def set_epoch(self, epoch: int) -> None:
        """Serve the augmentations of this epoch from now on, in worker processes too.

        Raises:
            UsageError: the number is negative.
        """
        if epoch < 0:
            raise UsageError(f"set_epoch needs a number of at least 0, not {epoch}")
        self._epoch.value, self._served = epoch, False

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> Any:
        return self.rows([row], self.epoch)[0]

    def __getitems__(self, rows: Sequence[int]) -> list[Any]:
        return self.rows(rows, self.epoch)

    def __iter__(self) -> Iterator[Any]:
        """The rows in order; without `set_epoch` each pass is the next epoch."""
        if self._served:
            self.set_epoch(self.epoch + 1)
        self._served = True
        epoch = self.epoch
        return (self.rows([row], epoch)[0] for row in range(len(self)))

    def rows(self, rows: Iterable[int], epoch: int) -> list[Any]:
        """Rows by number with the augmentations of an epoch, whatever `set_epoch` said.

        Raises:
            DataError: the dataset draws from what seeds don't reach.
        """
        with generators_kept():
            return [self._row(row, epoch) for row in rows]

    def _row(self, row: int, epoch: int) -> Any:
        number = row + len(self) if row < 0 else row
        seed = key("replayed", self.seed, epoch % self.replays, int(number))
        seed_all(seed)
        found = self.dataset[row]
        if self._checked < _CHECKED:
            self._checked += 1
            seed_all(seed)
            if not _same(found, self.dataset[row]):
                raise DataError(
                    f"row {row} of {type(self.dataset).__name__} is another one when it is fetched again with the same "
                    "seeds, so its augmentation can't be replayed: it draws from a generator that it keeps, or from "
                    "one without a seed, as numpy.random.default_rng() is. Draw from the random module, NumPy's or "
                    "torch's global generator, or make the generator in __getitem__ with a seed from one of these"
                )
        return found

    def __getstate__(self) -> dict[str, Any]:
        # a worker that is being started shares the epoch; a copy, or a dataset on disk, has its own
        shared = self._epoch if get_spawning_popen() is not None else self.epoch
        return {**vars(self), "_epoch": shared}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        if isinstance(self._epoch, int):
            self._epoch = multiprocessing.RawValue("q", self._epoch)


def replayed_in(loader: Any) -> Iterator[ReplayedAugmentation]:
    """The datasets inside of a loader whose augmentation is replayed, also those inside of subsets and the like."""
    waiting, seen = [(loader, 0)], set()
    while waiting:
        part, depth = waiting.pop()
        if part is None or id(part) in seen or depth > _DEPTH:
            continue
        seen.add(id(part))
        if isinstance(part, ReplayedAugmentation):
            yield part
        several = getattr(part, "datasets", None)  # of torch's ConcatDataset
        inner = several if isinstance(several, (list, tuple)) else ()
        waiting += [(one, depth + 1) for one in (getattr(part, "dataset", None), *inner)]


def seed_all(seed: int) -> None:
    """Seed Python's and NumPy's generators, and torch's on the CPU where torch is imported."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch = _torch()
    if torch is not None:
        torch.default_generator.manual_seed(seed >> 1)


@contextmanager
def generators_kept() -> Iterator[None]:
    """Within the block anybody may seed the generators; afterwards they are as before."""
    backs: list[tuple[Callable[..., Any], Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),
    ]
    torch = _torch()
    if torch is not None:
        backs.append((torch.default_generator.set_state, torch.default_generator.get_state()))
    try:
        yield
    finally:
        for put_back, state in backs:
            put_back(state)


def _torch() -> Any:
    torch = sys.modules.get("torch")
    return torch if hasattr(torch, "default_generator") else None  # a module that is being imported has none yet


def _same(one: Any, other: Any) -> bool:
    """Whether two rows hold the same; what can't be compared is taken to be."""
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and all(_same(value, other.get(name)) for name, value in one.items())
    if isinstance(one, (tuple, list)):
        return len(one) == len(other) and all(_same(*pair) for pair in zip(one, other, strict=True))
    if hasattr(one, "dtype") and hasattr(one, "shape"):
        if one.shape != other.shape:
            return False
        alike: Any = (one == other) | ((one != one) & (other != other))  # NaN is like NaN
        return bool(alike.all() if hasattr(alike, "all") else np.all(alike))
    if getattr(type(one), "__eq__", None) is object.__eq__:
        return True
    return bool(one == other) or one != one
