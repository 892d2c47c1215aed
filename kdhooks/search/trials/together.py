"""The processes that train each candidate together: rank 0 proposes, decides and records, all of them train.

Rules: every rank calls the same methods in the same order, and what one of them has to know comes from rank 0 as
plain data.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from kdhooks.backend import Backend
from kdhooks.errors import KDHooksError, UsageError

T = TypeVar("T")


@dataclass(frozen=True)
class Together:
    """The group; a single process is a group of one.

    Attributes:
        rank: of this process.
        size: how many there are.
        backend: what they talk through; None where there is one.
    """

    rank: int = 0
    size: int = 1
    backend: Backend | None = None

    @property
    def leads(self) -> bool:
        """Whether this process has the study."""
        return self.rank == 0

    def shared(self, value: T) -> T:
        """The plain data that rank 0 has."""
        if self.backend is None:
            return value
        found: T = self.backend.broadcast(value if self.leads else None)
        return found

    def led(self, function: Callable[[], T]) -> T:
        """The plain data that a function returns on rank 0, which alone calls it.

        Raises:
            KDHooksError: it did so on rank 0; the others say the same as a UsageError.
        """
        if self.backend is None:
            return function()
        if not self.leads:
            heard: T = self._followed()
            return heard
        try:
            value = function()
        except KDHooksError as error:
            self.shared({"error": str(error)})
            raise
        self.shared({"value": value})
        return value

    def _followed(self) -> Any:
        found: Any = self.shared({})
        if "error" in found:
            raise UsageError(found["error"])
        return found["value"]


@contextmanager
def joined(backends: Iterable[Backend]) -> Iterator[Together]:
    """Within the block the processes that a launcher started are a group.

    Args:
        backends: of the frameworks that may have such a group; the first that has one is it.
    """
    for backend in backends:
        with backend.together() as (rank, size):
            if size > 1:
                yield Together(rank, size, backend)
                return
    yield Together()
