"""Who works on a study, and who has died.

A worker on this machine is looked for by its process number and start time, so its death is seen at once, and it is
not taken for dead because the machine is busy. Any other one is judged by its signs of life, a counter that it raises:
no clock of one machine is held against that of another.
"""

from __future__ import annotations

import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from kdhooks.messages import logger

_MISSED = 3  # signs of life in a row after which a worker counts as dead
_MISSED_HERE = 20  # of a process that is there, but may have lost its study


def myself(heartbeat: float) -> dict[str, Any]:
    """This process, as plain data for the study.

    Args:
        heartbeat: seconds between its signs of life.
    """
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "machine": _machine(),
        "heartbeat": heartbeat,
        "token": secrets.token_hex(8),  # tells apart several studies in one process
    }


def shown(worker: Mapping[str, Any]) -> str:
    """A worker for a person to read.

    >>> shown({"host": "node7", "pid": 12})
    'node7:12'
    """
    return f"{worker['host']}:{worker['pid']}"


class Watch:
    """Tells which workers are dead.

    Args:
        clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: dict[int, tuple[int, float]] = {}

    def is_dead(self, trial_id: int, worker: Mapping[str, Any], beat: int) -> bool:
        """Whether the worker of a running trial is dead, or has given no sign of life for three times its interval.

        The time counts from the first look at the last sign. It is longer for a process that can be seen to live.
        """
        is_here = worker["machine"] == _machine()
        if is_here and not _is_alive(worker["pid"], worker["started"]):
            return True
        last, since = self._seen.get(trial_id, (None, 0.0))
        if last != beat:
            self._seen[trial_id] = (beat, self._clock())
            return False
        missed = _MISSED_HERE if is_here else _MISSED
        return self._clock() - since > missed * float(worker["heartbeat"])


class Heart:
    """A thread that gives signs of life for the trials of this process.

    Args:
        give: is called with a trial and the number of the sign; whatever it raises is logged once.
        interval: seconds between signs.
    """

    def __init__(self, give: Callable[[int, int], None], interval: float) -> None:
        self._give, self._interval = give, interval
        self._trials: set[int] = set()
        self._beat = 0
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, trial_id: int) -> None:
        """Give signs for a trial from now on."""
        self._trials.add(trial_id)
        if self._thread is None and not self._end.is_set():
            self._thread = threading.Thread(target=self._work, name="kdhooks-heart", daemon=True)
            self._thread.start()

    def end(self, trial_id: int) -> None:
        """Give none for a trial any more."""
        self._trials.discard(trial_id)

    def stop(self) -> None:
        """End the thread."""
        self._end.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        has_complained = False
        while not self._end.wait(self._interval):
            self._beat += 1
            for trial_id in tuple(self._trials):
                try:
                    self._give(trial_id, self._beat)
                    has_complained = False
                except Exception as error:  # the storage may be back before the next sign
                    if not has_complained:
                        logger.warning("a sign of life could not be given to the study: %s", type(error).__name__)
                    has_complained = True


@lru_cache(maxsize=1)
def _machine() -> str:
    """What processes share that see each other's numbers: a boot of a machine, and there a space of numbers."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{socket.gethostname()}/{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    """When a process was started, in the words of the system; empty where that is not known or it is dead."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" else fields[18]


def _is_alive(pid: int, started: str) -> bool:
    """Whether that very process is alive; True where this system can't tell."""
    if started:
        return _started(pid) == started
    if sys.platform == "win32":  # where signal 0 would end it
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
