"""Parts that other threads work at, such as a graph's Python functions: they lie in a step or beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Elsewhere:
    """Sums of parts in other threads.

    Attributes:
        seconds: by part; a part inside of a part of the same thread counts for the inner one only.
        times: how often each part was worked at.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.times: dict[str, int] = {}
        self._lock, self._here = threading.Lock(), threading.local()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Time what the block does."""
        inner_of_outer: list[float] = self._here.__dict__.setdefault("inner", [])
        inner_of_outer.append(0.0)
        began = time.perf_counter()
        try:
            yield
        finally:
            seconds = time.perf_counter() - began
            inner = inner_of_outer.pop()
            if inner_of_outer:
                inner_of_outer[-1] += seconds
            with self._lock:
                self.seconds[name] = self.seconds.get(name, 0.0) + seconds - inner
                self.times[name] = self.times.get(name, 0) + 1
