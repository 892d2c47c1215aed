"""Rows of bytes by key, in spaces by name: what many processes of one machine may fill and read at once.

A store never stops a training: what goes wrong with its folder is said once, and from then on it finds
nothing or stores nothing. With ``strict`` the same is a `StoreError`, for programs about the store itself.
"""

from __future__ import annotations

import atexit
import json
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.cache import problems
from kdhooks.cache.environment import Environment, acquire, record_key
from kdhooks.cache.mounts import network_file_system
from kdhooks.cache.packages import lmdb
from kdhooks.cache.problems import StoreError, on_read_only_disk, reason_of
from kdhooks.cache.sealing import seal, seal_many, split, unseal, unseal_many, unsealed_table
from kdhooks.errors import KDHooksError
from kdhooks.messages import logger

SIZE_BOUND = 64 << 30

_stores: weakref.WeakSet[Store] = weakref.WeakSet()


class Store:
    """A folder of stored rows.

    Threads may share one; a forked child that uses it opens the folder anew by itself.

    Args:
        path: the folder; it is made where it is missing.
        size_bound: bytes that its file may take; at the bound it stores nothing more. 64 GiB.
        read_only: never write, not even a folder.
        strict: raise a `StoreError` where the store can't be used, in place of a message.
        flush_rows: write after so many rows; the rows since the last write are what a killed process loses.
        flush_bytes: write after so many bytes.
        flush_seconds: write when the oldest row has waited so long.

    Attributes:
        problem: why nothing is read or written; empty while all is well.
        write_problem: why nothing is written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
    ...     space = store.space("a teacher's fingerprint")
    ...     space.put_many([b"key"], [b"a row"])
    ...     space.get_many([b"key", b"other"])
    [b'a row', None]
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        size_bound: int = SIZE_BOUND,
        read_only: bool = False,
        strict: bool = False,
        flush_rows: int = 2048,
        flush_bytes: int = 16 << 20,
        flush_seconds: float = 5.0,
    ) -> None:
        self.path = Path(path)
        self.size_bound, self.read_only, self.strict = size_bound, read_only, strict
        self.flush_rows, self.flush_bytes, self.flush_seconds = flush_rows, flush_bytes, flush_seconds
        self.problem, self.write_problem = "", ""
        self._environment: Environment | None = None
        self._records: dict[str, bytes] = {}
        self._spaces: dict[str, Space] = {}
        self._open()
        _stores.add(self)

    def space(self, name: str) -> Space:
        """The rows of one teacher, by its fingerprint."""
        return self._spaces.setdefault(name, Space(self, name))

    def flush(self) -> None:
        """Write the rows that wait; other processes see them then."""
        environment = self._environment
        if environment is None or environment.pid != os.getpid() or self.write_problem:
            return
        try:
            if environment.pending and environment.used() >= self.size_bound:
                raise StoreError(problems.FULL_BOUND.format(bound=self.size_bound))
            environment.flush(self._records)
            self._records = {}
        except lmdb.MapFullError:
            self._stop_writing(problems.FULL_BOUND.format(bound=self.size_bound))
        except (StoreError, lmdb.Error, OSError) as error:
            self._stop_writing(reason_of(error, environment.present.file))

    def close(self) -> None:
        """Write what waits, and let go of the files; afterwards the store finds and stores nothing."""
        environment, self.problem = self._environment, self.problem or "it is closed"
        if environment is not None and environment.pid == os.getpid():
            self.flush()
            self._environment = None
            environment.release()

    def used(self) -> int:
        """How many bytes the rows take on disk; 0 where the store is not in use."""
        environment = self._current()
        return 0 if environment is None else environment.used()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _open(self) -> None:
        try:
            kind = network_file_system(self.path)
            if kind is not None:
                raise StoreError(problems.NETWORK.format(kind=kind))
            self._environment = self._acquired()
        except (StoreError, lmdb.Error, OSError) as error:
            self._environment = None
            self._give_up(self._reason(error))

    def _acquired(self) -> Environment:
        """The environment, for reading only where a folder on a read-only disk holds a store."""
        try:
            return acquire(self.path, size_bound=self.size_bound, read_only=self.read_only)
        except (lmdb.Error, OSError) as error:
            if self.read_only or not on_read_only_disk(error):
                raise
            try:
                environment = acquire(self.path, size_bound=self.size_bound, read_only=True)
            except FileNotFoundError:
                raise error from None
            self._stop_writing(self._reason(error))
            return environment

    def _reason(self, error: BaseException) -> str:
        if isinstance(error, (FileExistsError, NotADirectoryError)):
            return "it is a file, and a store is a folder"
        if isinstance(error, FileNotFoundError):
            return "there is no store"
        return reason_of(error, self._file())

    def _file(self) -> str:
        names = sorted(entry.name for entry in self.path.glob("rows-*.mdb")) if self.path.is_dir() else []
        return names[-1] if names else "rows-1.mdb"

    def _current(self) -> Environment | None:
        """The environment of this process and of the present file, or None where the store is not in use."""
        environment = self._environment
        if self.problem or environment is None:
            return None
        try:
            if environment.pid != os.getpid():
                self._environment, self._records = None, {}  # the parent writes what waited there
                self._open()
            elif environment.superseded():
                self._follow(environment)
        except (StoreError, OSError, lmdb.Error) as error:
            self._give_up(self._reason(error))
        return self._environment

    def _follow(self, old: Environment) -> None:
        """Go on with the file that the store has been written to anew; rows that wait go there too."""
        self._open()
        new = self._environment
        if new is not None:
            for space, rows in old.pending.items():
                new.keep(space, rows.items())
            for space_of in self._spaces.values():
                space_of.forget()
        old.drop_pending()
        old.release()

    def _get(self, space: str, keys: Sequence[bytes]) -> list[bytes | None]:
        environment = self._current()
        if environment is not None:
            try:
                if environment.pending_bytes:
                    self._flush_when_due(environment, 0)
                return environment.get(space, keys)
            except lmdb.Error as error:
                self._give_up(reason_of(error, environment.present.file))
        return [None] * len(keys)

    def _put(self, space: str, rows: Sequence[tuple[bytes, bytes]]) -> None:
        environment = self._current()
        if environment is not None and not self.write_problem and not self.read_only:
            self._flush_when_due(environment, environment.keep(space, rows))

    def _flush_when_due(self, environment: Environment, waiting: int) -> None:
        full = waiting >= self.flush_rows or environment.pending_bytes >= self.flush_bytes
        if full or time.monotonic() - environment.pending_since >= self.flush_seconds:
            self.flush()

    def _record(self, name: str) -> bytes | None:
        environment = self._current()
        if environment is not None:
            try:
                return environment.record(name)
            except lmdb.Error as error:
                self._give_up(reason_of(error, environment.present.file))
        return None

    def _describe(self, name: str, record: bytes) -> bytes:
        """Write a space's record at once; returns the one that stands, which may be another process's."""
        if self._current() is None or self.write_problem or self.read_only:
            return record
        self._records[name] = record
        self.flush()
        return self._record(name) or record

    def _give_up(self, reason: str) -> None:
        environment, self._environment = self._environment, None
        if environment is not None and environment.pid == os.getpid():
            environment.drop_pending()
            environment.release()
        self.problem = reason
        if self.strict:
            raise StoreError(f"{self.path}: {reason}")
        logger.warning("the cache %s is not used: %s. Training goes on without it.", self.path, reason)

    def _stop_writing(self, reason: str) -> None:
        if self._environment is not None:
            self._environment.drop_pending()
        self.write_problem, self._records = reason, {}
        if self.strict:
            raise StoreError(f"{self.path}: {reason}")
        logger.warning("the cache %s stores nothing more: %s. What is stored is still read.", self.path, reason)


class Space:
    """The rows of one teacher.

    Attributes:
        name: the teacher's fingerprint.
        hits: rows that were found.
        misses: rows that were not, the bad ones among them.
        bad: rows whose checksum was wrong; they are never returned.
    """

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name = store, name
        self.hits = self.misses = self.bad = 0
        self._record: dict[str, Any] | None = None

    def get_many(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The rows under keys, None where there is none or a damaged one."""
        found = self.get_table(keys)
        return found if isinstance(found, list) else [*split(found)]

    def get_table(self, keys: Sequence[bytes]) -> NDArray[np.uint8] | list[bytes | None]:
        """The same, as one array [N, bytes] where all rows are there and of one size: without an object a row."""
        stored = self.store._get(self.name, keys)
        table = unsealed_table(keys, stored)
        if table is not None:
            self.hits += len(table)
            return table
        rows = unseal_many(keys, stored)
        missing = rows.count(None)
        self.bad += missing - stored.count(None)
        self.misses += missing
        self.hits += len(rows) - missing
        return rows

    def put_many(self, keys: Sequence[bytes], rows: Sequence[bytes]) -> None:
        """Keep rows; one that is there already is replaced."""
        self.store._put(self.name, list(zip(keys, seal_many(keys, rows), strict=True)))

    def record(self) -> dict[str, Any] | None:
        """What was written about the space when its first row was stored; None before, or where it is damaged."""
        if self._record is None:
            self._record = read_record(self.name, self.store._record(self.name))
        return self._record

    def describe(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """Write the space's record where there is none; returns the one that stands."""
        text = json.dumps({"created": int(time.time()), **record}, sort_keys=True).encode()
        stands = self.store._describe(self.name, seal(record_key(self.name), text))
        self._record = read_record(self.name, stands)
        if self._record is None:
            raise KDHooksError(f"{self.store.path}: the record of the space {self.name} is damaged; `prune` removes it")
        return self._record

    def forget(self) -> None:
        """Read the record again when it is asked for."""
        self._record = None


def read_record(name: str, stored: bytes | None) -> dict[str, Any] | None:
    """A space's record from its bytes; None where they are damaged."""
    text = None if stored is None else unseal(record_key(name), stored)
    if text is None:
        return None
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


@atexit.register
def _close_all() -> None:
    for store in list(_stores):
        store.close()
