"""One LMDB environment a process and file, shared by everybody in the process.

LMDB forbids to open a file twice in one process, and to use or close in a forked child what the parent has
open. So open environments stand in a table, and before a fork their files are closed; the parent opens them
again at their next use, and a child begins with an empty table. Rows that wait to be written stay with the
parent, and are found like those in the file.

Commits are flushed to the disk, but for the last page of all (``metasync=False``): a killed process loses
what it had not committed, and a machine that loses its power at most the last commit as well.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from kdhooks.cache import folder as folders
from kdhooks.cache import problems, structure
from kdhooks.cache.folder import Present
from kdhooks.cache.gate import Gate
from kdhooks.cache.opening import opened
from kdhooks.cache.packages import lmdb
from kdhooks.cache.problems import StoreError

_SPACES = 126

_open: dict[str, Environment] = {}
_inherited: set[str] = set()  # what the parent of this process had open, and looked over
_lock = threading.RLock()
_forking = ExitStack()


def _before_fork() -> None:
    _forking.enter_context(_lock)
    for environment in _open.values():
        _forking.enter_context(environment.suspended())


def _after_fork_in_child() -> None:
    global _lock, _forking
    _forking.pop_all()  # the locks in it are the parent's
    _lock = threading.RLock()
    _inherited.update(_open)
    _open.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=lambda: _forking.close(), after_in_child=_after_fork_in_child
    )


class Table(NamedTuple):
    """A space: its record as it is stored, how many rows it has, and how many bytes of the file they take."""

    record: bytes | None
    rows: int
    bytes: int


class Environment:
    """An open file of rows.

    Attributes:
        pid: the process that it belongs to.
        pending: by space, rows that wait to be written.
    """

    def __init__(self, folder: Path, present: Present, *, size_bound: int, read_only: bool, spaces: int) -> None:
        self.folder, self.present, self.pid, self.read_only = folder, present, os.getpid(), read_only
        self.path = folder / present.file
        self.users = 0
        self.pending: dict[str, dict[bytes, bytes]] = {}
        self.pending_bytes, self.pending_since = 0, 0.0
        self.lock, self._writing, self._opening, self._gate = (
            threading.Lock(),
            threading.Lock(),
            threading.Lock(),
            Gate(),
        )
        self._handles: dict[str, Any] = {}
        self._size_bound, self._spaces = size_bound, spaces
        self._lmdb: Any = None
        self._looked_over = str(self.path) in _inherited
        self._opened()

    def _opened(self) -> Any:
        """LMDB's environment; opened, where it is not."""
        if self._lmdb is None:
            with self._opening:
                if self._lmdb is None:
                    self._lmdb = opened(
                        self.path,
                        size_bound=self._size_bound,
                        read_only=self.read_only,
                        spaces=self._spaces,
                        look=not self._looked_over,
                    )
                    self._looked_over = True
        return self._lmdb

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Close the file, and keep everybody out until the block ends."""
        with self._gate.alone():
            if self._lmdb is not None:
                self._lmdb.close()
                self._lmdb, self._handles = None, {}
            yield

    def superseded(self) -> bool:
        """Whether the store has been written anew since.

        Raises:
            StoreError: it is no longer there.
        """
        try:
            return folders.mark(self.folder) != self.present.mark
        except FileNotFoundError:
            raise StoreError(problems.REMOVED) from None

    def get(self, space: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """What is stored under keys, None where nothing is."""
        try:
            return self._get(space, keys)
        except lmdb.MapResizedError:  # another process has a larger bound, and used it
            with self._gate.alone():
                self._opened().set_mapsize(0)
            return self._get(space, keys)

    def _get(self, space: str, keys: Sequence[bytes]) -> list[bytes | None]:
        self._gate.enter()
        try:  # what every batch of a warm run does, in few steps
            environment, handle = self._lmdb, self._handles.get(space)
            ready = environment is not None and handle is not None
            found = _found(environment, handle, keys) if ready else []
        finally:
            self._gate.leave()
        if not ready:
            with self._using([space], create=False) as (environment, handles):
                known = space in handles
                found = _found(environment, handles[space], keys) if known else [None] * len(keys)
        waiting = self.pending.get(space)
        if waiting:  # before what is stored, which may be the damaged row that this one replaces
            found = [waiting.get(key, row) for key, row in zip(keys, found, strict=True)]
        return found

    def record(self, name: str) -> bytes | None:
        """A space's record."""
        try:
            return self._record(name)
        except lmdb.MapResizedError:
            with self._gate.alone():
                self._opened().set_mapsize(0)
            return self._record(name)

    def _record(self, name: str) -> bytes | None:
        with self._using([], create=False) as (environment, _), environment.begin() as transaction:
            found: bytes | None = transaction.get(record_key(name))
        return found

    def keep(self, space: str, rows: Iterable[tuple[bytes, bytes]]) -> int:
        """Put rows into the buffer; returns how many wait there."""
        with self.lock:
            if not self.pending_bytes:
                self.pending_since = time.monotonic()
            waiting = self.pending.setdefault(space, {})
            for key, row in rows:
                waiting[key] = row
                self.pending_bytes += len(key) + len(row)
            return sum(map(len, self.pending.values()))

    def drop_pending(self) -> None:
        """Forget the rows that wait."""
        with self.lock:
            self.pending, self.pending_bytes = {}, 0

    def flush(self, records: Mapping[str, bytes]) -> None:
        """Write all rows that wait, in one transaction.

        Args:
            records: the records of new spaces; one that is there already is left alone.
        """
        with self._writing:
            with self.lock:
                batch = {space: dict(rows) for space, rows in self.pending.items() if rows}
            if batch or records:
                try:
                    self._write(batch, records)
                except lmdb.MapResizedError:
                    with self._gate.alone():
                        self._opened().set_mapsize(0)
                    self._write(batch, records)
            with self.lock:
                for space, rows in batch.items():
                    waiting = self.pending[space]
                    for key, row in rows.items():
                        if waiting.get(key) is row:
                            del waiting[key]
                left = (len(key) + len(row) for rows in self.pending.values() for key, row in rows.items())
                self.pending_bytes, self.pending_since = sum(left), time.monotonic()

    def _write(self, batch: Mapping[str, Mapping[bytes, bytes]], records: Mapping[str, bytes]) -> None:
        with self._using(batch, create=True) as (environment, handles), environment.begin(write=True) as transaction:
            for name, record in records.items():
                transaction.put(record_key(name), record, overwrite=False)
            for space, rows in batch.items():
                with transaction.cursor(db=handles[space]) as cursor:
                    cursor.putmulti(sorted(rows.items()))  # neighbours share pages

    def used(self) -> int:
        """How many bytes of the file LMDB has handed out."""
        with self._using([], create=False) as (environment, _):
            count: int = environment.info()["last_pgno"] + 1
            return count * int(environment.stat()["psize"])

    def spaces(self) -> dict[str, Table]:
        """Every space by its name."""
        with self._using([], create=False) as (environment, _), environment.begin() as transaction:
            named = [bytes(key) for key, _ in transaction.cursor()]
            records = {key[6:].decode(): transaction.get(key) for key in named if key.startswith(b"space ")}
        names = sorted({*records, *(key[5:].decode() for key in named if key.startswith(b"rows "))})
        tables = {name: Table(records.get(name), 0, 0) for name in names}
        with self._using(names, create=False) as (environment, handles), environment.begin() as transaction:
            for name in names:
                if name in handles:
                    said = transaction.stat(handles[name])
                    pages = said["branch_pages"] + said["leaf_pages"] + said["overflow_pages"]
                    tables[name] = Table(records.get(name), said["entries"], pages * said["psize"])
        return tables

    def rows(self, space: str) -> Iterator[tuple[bytes, bytes]]:
        """All rows of a space as they are stored, in the order of their keys."""
        with self._using([space], create=False) as (environment, handles):
            if space in handles:
                with environment.begin(db=handles[space]) as transaction, transaction.cursor() as cursor:
                    yield from cursor

    def look_over(self) -> None:
        """Look over all pages of the file.

        Raises:
            DamageError: LMDB could not follow them.
        """
        with self._using([], create=False) as (environment, _):
            structure.check(self.path, environment, leaves=sys.maxsize)

    @contextmanager
    def still(self) -> Iterator[None]:
        """Let no process write until the block ends."""
        if self.read_only:
            yield
            return
        with self._using([], create=False) as (environment, _), environment.begin(write=True) as transaction:
            try:
                yield
            finally:
                transaction.abort()

    @contextmanager
    def _using(self, spaces: Iterable[str], *, create: bool) -> Iterator[tuple[Any, dict[str, Any]]]:
        """LMDB's environment and its handles of spaces, both valid until the block ends.

        Without ``create`` a space that has no rows has no handle.
        """
        while True:
            with self._gate.together():
                environment = self._opened()
                unopened = [space for space in spaces if space not in self._handles]
                if unopened and not create:  # to open a table waits for a writer, to look for it does not
                    with environment.begin() as transaction:
                        unopened = [space for space in unopened if transaction.get(rows_key(space)) is not None]
                if not unopened:
                    yield environment, self._handles
                    return
            with self._gate.alone():
                for space in unopened:
                    self._handles[space] = self._opened().open_db(rows_key(space), create=create)

    def release(self) -> None:
        """One user less; the last one closes."""
        with _lock:
            self.users -= 1
            if self.users <= 0 and self.pid == os.getpid():
                _open.pop(str(self.path), None)
                with self.suspended():
                    pass


def _found(environment: Any, handle: Any, keys: Sequence[bytes]) -> list[bytes | None]:
    with environment.begin(db=handle) as transaction:
        return list(map(transaction.get, keys))


def record_key(name: str) -> bytes:
    """Under which key of LMDB's main table a space's record stands."""
    return b"space " + name.encode()


def rows_key(name: str) -> bytes:
    """The name of LMDB's table of a space's rows."""
    return b"rows " + name.encode()


def acquire(folder: Path, *, size_bound: int, read_only: bool, spaces: int = _SPACES) -> Environment:
    """The environment of a store's present file, opened where this process has it not open yet.

    Raises:
        StoreError: the folder holds something else, a newer format, or a truncated file.
        OSError, lmdb.Error: it can't be read or written.
    """
    folder = folder.resolve()
    with _lock:
        while True:
            present = folders.present(folder) if read_only else folders.create(folder)
            environment = _open.get(str(folder / present.file))
            if environment is not None and environment.read_only and not read_only:
                raise StoreError("this process has it open for reading only")
            if environment is None:
                environment = Environment(folder, present, size_bound=size_bound, read_only=read_only, spaces=spaces)
                if environment.superseded():  # between the two looks; its file may be gone
                    with environment.suspended():
                        continue
                _open[str(environment.path)] = environment
            environment.users += 1
            return environment
