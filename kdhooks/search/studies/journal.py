"""A journal of Optuna's in one file that outlives killed workers.

Optuna's own lock is a second file: a worker that is killed while it holds the lock leaves it, and all others wait
for half a minute. Here the system holds the lock and gives it back when the process ends. A killed worker can also
leave half a line, which would make the next one unreadable; whoever writes next takes it away.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

fcntl: Any
try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None

_BEGIN = b'{"op_code":'  # of every line


class NoJournal(Exception):
    """The file is something else."""


class Journal(JournalFileBackend):
    """The journal in a file, which is made where it is missing.

    Raises:
        NoJournal: the file holds something else.
        OSError: it can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        lock: Any = SystemLock(path)  # Optuna's base class of locks is not public
        super().__init__(str(path), lock)
        with path.open("rb") as file:
            begin = file.read(len(_BEGIN))
        if begin != _BEGIN[: len(begin)]:
            raise NoJournal(path)

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Write lines behind the last whole one."""
        self._lock.acquire()
        try:
            self._mend()
            text = "".join(_line(log) for log in logs)
            with self._path.open("ab") as file:
                file.write(text.encode("utf-8"))
                file.flush()
                os.fsync(file.fileno())
        finally:
            self._lock.release()

    def _mend(self) -> None:
        """Take half a line away; called while the lock is held, so nobody is just writing it."""
        with self._path.open("rb+") as file:
            end = whole = file.seek(0, os.SEEK_END)
            while whole:
                begin = max(0, whole - 4096)
                file.seek(begin)
                newline = file.read(whole - begin).rfind(b"\n")
                whole = begin + newline + 1 if newline >= 0 else begin
                if newline >= 0:
                    break
            if whole < end:
                file.truncate(whole)


class SystemLock:
    """A lock on a file beside the journal that ends with the process; Optuna's own where the system has none.

    It stands beside the journal and not on it, since a file system may refuse to read what another one has locked.
    """

    def __init__(self, path: Path) -> None:
        self._path = path.with_name(path.name + ".lock")
        self._held: int | None = None
        self._instead: JournalFileOpenLock | None = None
        self._journal = path

    def acquire(self) -> bool:
        """Wait until it is ours."""
        if self._instead is None and not self._lock():
            self._instead = JournalFileOpenLock(str(self._journal.with_name(self._journal.name + ".open")))
        if self._instead is not None:
            return bool(self._instead.acquire())
        return True

    def release(self) -> None:
        """Give it back."""
        if self._instead is not None:
            self._instead.release()
        elif self._held is not None:
            held, self._held = self._held, None
            fcntl.flock(held, fcntl.LOCK_UN)  # closing is not enough where a process was forked meanwhile
            os.close(held)

    def _lock(self) -> bool:
        if fcntl is None:
            return False
        held = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(held, fcntl.LOCK_EX)
        except OSError as error:
            os.close(held)
            if error.errno in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL):
                return False
            raise
        self._held = held
        return True


def _line(log: dict[str, Any]) -> str:
    return json.dumps(log, separators=(",", ":")) + "\n"
