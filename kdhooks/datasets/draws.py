"""Random numbers that are a function of what they are for, and of nothing else.

Rules: no generator is kept or advanced, neither ours nor the user's. A number depends on its key (seed,
epoch, purpose) and on its row only, so it is the same in any process, batch and version of NumPy.
The mixer is SplitMix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def key(*parts: int | str) -> int:
    """A number of 64 bits that stands for all parts together.

    >>> key("order", 1978, 0) == key("order", 1978, 0), key(1, 23) == key(12, 3)
    (True, False)
    """
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest(), "little")


def _mix(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def random_bits(stream: int, counters: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """64 random bits for every counter, in the counters' shape; `stream` is a `key`."""
    return _mix(_mix(counters * _GOLDEN) ^ np.full(1, stream, np.uint64))


def permutation(count: int, *parts: int | str) -> NDArray[np.int64]:
    """The numbers below `count` in an order that the parts decide, as int64 of shape [count].

    >>> sorted(permutation(5, "order", 1978).tolist())
    [0, 1, 2, 3, 4]
    """
    bits = random_bits(key(*parts), np.arange(count, dtype=np.uint64))
    return np.argsort(bits, kind="stable").astype(np.int64, copy=False)


class Draws:
    """The random numbers of a batch: each row has its own, by (seed, epoch, row, number of the call).

    Args:
        seed: of the run.
        epoch: rows get other numbers every epoch.
        rows: the row numbers of the batch in its dataset, shape [N].
        replays: the numbers of an epoch are those of epoch modulo this; None for other numbers in every epoch.

    Attributes:
        by_row: whether what is drawn for a row must not depend on the rows beside it, also where a user's function
            draws: such a function gets the rows one by one.

    >>> Draws(1978, 0, [3, 4]).uniform(2)[1].tolist() == Draws(1978, 0, [4]).uniform(2)[0].tolist()
    True
    """

    def __init__(
        self, seed: int, epoch: int, rows: NDArray[np.int64] | list[int], *, replays: int | None = None
    ) -> None:
        self.seed, self.rows = seed, np.asarray(rows, dtype=np.int64)
        self.epoch = epoch if replays is None else epoch % replays
        self.by_row = replays is not None
        self._calls = 0

    def __len__(self) -> int:
        return len(self.rows)

    def first(self, count: int) -> Draws:
        """These numbers, of the first rows only; where nothing was drawn yet."""
        made = Draws(self.seed, self.epoch, self.rows[:count])
        made.by_row = self.by_row
        return made

    def _bits(self, count: int) -> NDArray[np.uint64]:
        columns: NDArray[np.uint64] = np.arange(count, dtype=np.uint64)
        counters: NDArray[np.uint64] = self.rows.astype(np.uint64)[:, None] * np.uint64(count) + columns
        self._calls += 1
        return random_bits(key("draws", self.seed, self.epoch, self._calls), counters)

    def uniform(self, count: int = 1) -> NDArray[np.float64]:
        """Numbers in [0, 1), shape [N, count]."""
        return (self._bits(count) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def integers(self, below: int, count: int = 1) -> NDArray[np.int64]:
        """Integers in [0, below), shape [N, count]."""
        return (self.uniform(count) * below).astype(np.int64)

    def normal(self, count: int = 1) -> NDArray[np.float32]:
        """Standard normal numbers, shape [N, count] (Box and Muller, 1958)."""
        bits = self._bits((count + 1) // 2)
        # Half a step above zero, and at most 1 as float32 rounds: the logarithm is finite and never positive.
        high = ((bits >> np.uint64(32)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
        low = (bits & np.uint64(0xFFFFFFFF)).astype(np.float32) * np.float32(2.0**-32 * 2 * np.pi)
        radius = np.sqrt(-2 * np.log(high))
        return np.concatenate([radius * np.cos(low), radius * np.sin(low)], axis=1)[:, :count]

    def generator_seed(self) -> int:
        """A seed for another library's generator, below 2**63, that all rows of the batch decide together."""
        digest = hashlib.blake2b(self.rows.tobytes(), digest_size=8).hexdigest()
        self._calls += 1
        return key("generator", self.seed, self.epoch, self._calls, digest) >> 1

    def generator_seeds(self) -> list[int]:
        """For each row a seed for another library's generator, below 2**63."""
        return [int(bits) for bits in self._bits(1)[:, 0] >> np.uint64(1)]
