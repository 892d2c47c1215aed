"""How long a program's threads waited for a processor that others had: that time is the machine's, and not the model's.

Linux counts it for each thread. Where a system does not tell, nothing was waited.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Any

try:
    import resource as _module
except ImportError:  # Windows has none
    _resource: Any = None
else:
    _resource = _module

_THREADS = Path("/proc/self/task")


class Waiting:
    """Asked between runs, tells of the time since it was last asked."""

    def __init__(self) -> None:
        self._switches, self._waited = _switches(), _waited()

    def since(self) -> float:
        """Seconds that the threads of this process together were ready to run and did not."""
        switches = _switches()
        if switches == self._switches:  # nobody was put aside, so there is nothing to read
            return 0.0
        before, self._waited, self._switches = self._waited, _waited(), switches
        # a thread that is new counts from its beginning, one that has ended no more
        return sum(seconds - before.get(thread, 0.0) for thread, seconds in self._waited.items())


def processors() -> int:
    """Processors that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def own_seconds(passed: float, busy: float, waited: float, threads: int) -> float:
    """How long a run would have taken without waiting for a processor.

    Threads may wait at the same time, so their waiting is taken off only as far as the run stays as long as the
    processors' work shared among them.

    Args:
        passed: seconds that the run took.
        busy: seconds of processors' work in it, of all threads together.
        waited: seconds that its threads waited, together.
        threads: that work at the same time at most.

    >>> own_seconds(0.050, 0.010, 0.039, 1), own_seconds(0.050, 0.010, 0.051, 1), own_seconds(0.050, 0.010, 0.0, 1)
    (0.011000000000000003, 0.01, 0.05)
    """
    return min(passed, max(busy / threads, passed - waited))


def _switches() -> int:
    if _resource is None:
        return 0
    used = _resource.getrusage(_resource.RUSAGE_SELF)
    return int(used.ru_nvcsw + used.ru_nivcsw)


def _waited() -> dict[str, float]:
    """Seconds by thread; the second number of a thread's ``schedstat``, in nanoseconds."""
    found = {}
    with suppress(OSError):  # no such files on this system
        for thread in os.listdir(_THREADS):
            with suppress(OSError, ValueError, IndexError):  # a thread that has just ended
                found[thread] = int((_THREADS / thread / "schedstat").read_text().split()[1]) * 1e-9
    return found
