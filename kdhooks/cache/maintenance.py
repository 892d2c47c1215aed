"""Looks at a store, checks it, and writes it anew: small, in key order, without damaged or unwanted rows.

All of it may run while others use the store. Who has it open goes on with the old file until its next batch
and then finds the new one; rows that were written meanwhile may be missing there, and are computed again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import compress, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.cache import folder as folders
from kdhooks.cache.environment import Environment, acquire, record_key, rows_key
from kdhooks.cache.packages import lmdb
from kdhooks.cache.pages import DamageError
from kdhooks.cache.problems import StoreError, reason_of
from kdhooks.cache.sealing import undamaged
from kdhooks.cache.store import read_record
from kdhooks.cache.teacher_store import TeacherStore

Progress = Callable[[int], Any]
"""Called with how many rows were done since the last call."""

_AT_ONCE = 4096
_SPACES = 4096


@dataclass(frozen=True)
class SpaceInfo:
    """One teacher's rows.

    Attributes:
        name: the teacher's fingerprint.
        rows: how many there are.
        record: what was written about it; None where that is missing or damaged.
        bytes: how much of the file they take.
    """

    name: str
    rows: int
    record: dict[str, Any] | None
    bytes: int = 0

    @property
    def created(self) -> float | None:
        """When its first row was stored, in seconds since 1970."""
        said = (self.record or {}).get("created")
        return float(said) if isinstance(said, (int, float)) else None


@dataclass(frozen=True)
class StoreInfo:
    """What is in a store.

    Attributes:
        path: its folder.
        bytes: the size of its file.
        spaces: its teachers.
    """

    path: Path
    bytes: int
    spaces: tuple[SpaceInfo, ...]

    @property
    def rows(self) -> int:
        """How many rows there are in all."""
        return sum(space.rows for space in self.spaces)


@dataclass(frozen=True)
class Verified:
    """What checking every row found.

    Attributes:
        rows: how many rows were checked.
        bad: of how many the checksum is wrong, by space; only spaces that have such.
        damage: what is wrong with the file itself, in LMDB's words.
    """

    rows: int
    bad: dict[str, int]
    damage: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.bad and not self.damage


def info(path: str | os.PathLike[str]) -> StoreInfo:
    """What is in a store.

    Raises:
        StoreError: there is none, or it can't be read.
    """
    with _opened(path, read_only=True) as environment:
        spaces = [
            SpaceInfo(name, table.rows, read_record(name, table.record), table.bytes)
            for name, table in environment.spaces().items()
        ]
        return StoreInfo(Path(path), environment.path.stat().st_size, tuple(spaces))


def verify(path: str | os.PathLike[str], progress: Progress | None = None) -> Verified:
    """Check the file's structure, and the checksum of every row; changes nothing.

    Writers wait while the structure is checked.

    Raises:
        StoreError: there is no store, or it can't be read at all.
    """
    with _opened(path, read_only=False) as environment:
        damage = _structure(environment)
        if damage:
            return Verified(0, {}, damage)
        bad: dict[str, int] = {}
        done = 0
        for name, table in environment.spaces().items():
            if table.record is not None and read_record(name, table.record) is None:
                damage = (*damage, f"the record of the space {name} is damaged")
            for rows in _chunks(environment.rows(name)):
                wrong = undamaged(rows).count(False)
                if wrong:
                    bad[name] = bad.get(name, 0) + wrong
                done += len(rows)
                if progress is not None:
                    progress(len(rows))
        return Verified(done, bad, damage)


def prune(
    path: str | os.PathLike[str],
    *,
    keep: Collection[str] | None = None,
    older_than_days: float | None = None,
    progress: Progress | None = None,
) -> StoreInfo:
    """Write a store anew, in key order: the smallest it can be.

    Damaged rows, and spaces whose record is damaged, are left out.

    Args:
        path: the store's folder.
        keep: names of the spaces to keep; None keeps all.
        older_than_days: leave out spaces that were made longer ago.
        progress: called with how many rows were copied.

    Raises:
        StoreError: there is no store, or it can't be read or written, or a name to keep is not in it.
    """
    folder = Path(path).resolve()
    with _opened(path, read_only=False) as environment, folders.maintenance(folder):
        spaces = environment.spaces()
        unknown = sorted(set(keep or ()) - set(spaces))
        if unknown:
            raise StoreError(f"it has no space {unknown[0]}")
        before = -1.0 if older_than_days is None else time.time() - older_than_days * 86400
        kept = {}
        for name, table in spaces.items():
            record = read_record(name, table.record)
            if record is None:
                continue
            wanted = (keep is None or name in keep) and record.get("created", 0) >= before
            if wanted or "choice" in record:  # how a teacher runs: without it its rows may not be found again
                kept[name] = table.record
        file = folders.next_file(folder)
        try:
            _copy(environment, folder / file, kept, progress)
        except BaseException:
            (folder / file).unlink(missing_ok=True)
            raise
        folders.switch(folder, file)
    return info(path)


def build(
    outputs: TeacherStore,
    batches: Iterable[tuple[Sequence[bytes], Callable[[NDArray[np.intp]], Any]]],
    progress: Progress | None = None,
) -> StoreInfo:
    """Fill a store with a teacher's outputs and write it in key order; what is there already is not computed again.

    Args:
        outputs: the teacher's rows, in a store that can be written.
        batches: keys of a batch, and a function that computes the outputs of the positions it is handed.
        progress: called with how many rows a batch had.

    Raises:
        StoreError: the store can't be written.
    """
    store = outputs.store
    for keys, teacher in batches:
        found = outputs.lookup(keys)
        if len(found.missing):
            outputs.encode([keys[place] for place in found.missing], teacher(found.missing))
        if store.problem or store.write_problem:
            raise StoreError(f"{store.path}: {store.problem or store.write_problem}")
        if progress is not None:
            progress(len(keys))
    store.flush()
    return prune(store.path)


@contextmanager
def _opened(path: str | os.PathLike[str], *, read_only: bool) -> Iterator[Environment]:
    """The environment of a store that must be there; errors name the folder."""
    folder = Path(path)
    try:
        if not (folder / folders.POINTER).exists():
            raise StoreError("there is no store")
        environment = _acquired(folder, read_only)
    except (StoreError, OSError, lmdb.Error) as error:
        raise StoreError(f"{folder}: {reason_of(error, 'of rows')}") from None
    try:
        yield environment
    except (StoreError, OSError, lmdb.Error) as error:
        raise StoreError(f"{folder}: {reason_of(error, environment.present.file)}") from None
    finally:
        environment.release()


def _acquired(folder: Path, read_only: bool) -> Environment:
    bound = folders.present(folder).file
    size = (folder / bound).stat().st_size
    try:
        return acquire(folder, size_bound=size + (1 << 20), read_only=False, spaces=_SPACES)
    except (OSError, lmdb.Error):
        if not read_only:
            raise
        return acquire(folder, size_bound=size + (1 << 20), read_only=True, spaces=_SPACES)


def _structure(environment: Environment) -> tuple[str, ...]:
    """What is wrong with the file's pages; LMDB's own checker is asked too, where the package has it."""
    try:
        environment.look_over()
    except DamageError as error:
        return (str(error),)
    try:
        checker = import_module("lmdb.verify")
    except ImportError:
        return ()
    with environment.still():
        try:
            return tuple(checker.verify(str(environment.path), subdir=False))
        except checker.VerifyError as error:
            return (str(error),)


def _copy(old: Environment, path: Path, kept: dict[str, Any], progress: Progress | None) -> None:
    size = 2 * old.path.stat().st_size + (1 << 24)
    with lmdb.open(str(path), subdir=False, map_size=size, lock=False, sync=False, max_dbs=len(kept) + 1) as new:
        for name, record in kept.items():
            table = new.open_db(rows_key(name))
            with new.begin(write=True) as transaction:
                transaction.put(record_key(name), record)
            for rows in _chunks(old.rows(name)):
                good = list(compress(rows, undamaged(rows)))
                with new.begin(db=table, write=True) as transaction, transaction.cursor() as cursor:
                    cursor.putmulti(good, append=True)
                if progress is not None:
                    progress(len(rows))
        new.sync(True)


def _chunks(rows: Iterable[tuple[bytes, bytes]]) -> Iterator[list[tuple[bytes, bytes]]]:
    iterator = iter(rows)
    while chunk := list(islice(iterator, _AT_ONCE)):
        yield chunk
