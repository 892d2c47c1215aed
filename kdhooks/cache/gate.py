"""Many may pass at once, or one alone: for the few calls of LMDB that no transaction may run beside."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Gate:
    """Counts who is inside; `alone` waits until nobody is, and lets nobody in meanwhile."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # taken by itself where nobody has to wait: every batch passes twice
        self._condition = threading.Condition(self._lock)
        self._inside = 0
        self._closed = False

    def enter(self) -> None:
        """Pass beside others; `leave` has to follow."""
        with self._lock:
            while self._closed:
                self._condition.wait()
            self._inside += 1

    def leave(self) -> None:
        """Be outside again."""
        with self._lock:
            self._inside -= 1
            if self._closed and not self._inside:
                self._condition.notify_all()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Pass beside others."""
        self.enter()
        try:
            yield
        finally:
            self.leave()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Pass with nobody beside."""
        with self._condition:
            while self._closed:
                self._condition.wait()
            self._closed = True
            while self._inside:
                self._condition.wait()
        try:
            yield
        finally:
            with self._condition:
                self._closed = False
                self._condition.notify_all()
