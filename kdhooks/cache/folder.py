"""The folder of a store: which file of it holds the rows, and in which format.

``store.json`` names the present file of rows. Writing a store anew makes another file and then replaces
``store.json`` in one step, so a process sees the old rows or the new ones and never a mixture; LMDB's own
files are never renamed, since their lock file would then belong to other data.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from kdhooks.cache import problems
from kdhooks.cache.problems import StoreError

FORMAT = 1
KIND = "kdhooks teacher outputs"
POINTER = "store.json"
_ROWS = re.compile(r"rows-([0-9]{1,9})\.mdb")


@dataclass(frozen=True)
class Present:
    """Which file holds the rows at present.

    Attributes:
        file: its name.
        mark: changes whenever ``store.json`` is replaced.
    """

    file: str
    mark: tuple[int, int]


def mark(folder: Path) -> tuple[int, int]:
    """What tells one ``store.json`` from the next: cheap enough to be asked at every batch."""
    status = os.stat(f"{folder}/{POINTER}")
    return status.st_ino, status.st_mtime_ns


def present(folder: Path) -> Present:
    """Which file holds the rows of a store.

    Raises:
        FileNotFoundError: there is no store.
        StoreError: the folder holds something else, or a store of a newer format.
    """
    before = mark(folder)
    with open(folder / POINTER, "rb") as stream:
        text = stream.read(4096)
    try:
        said = json.loads(text)
    except (ValueError, RecursionError):
        raise StoreError(problems.FOREIGN) from None
    if not isinstance(said, dict) or said.get("kind") != KIND or not isinstance(said.get("format"), int):
        raise StoreError(problems.FOREIGN)
    if said["format"] > FORMAT:
        raise StoreError(problems.NEWER.format(found=said["format"], known=FORMAT))
    file = said.get("file")
    if not isinstance(file, str) or _ROWS.fullmatch(file) is None:  # never a path to somewhere else
        raise StoreError(problems.FOREIGN)
    return Present(file, before)


def create(folder: Path) -> Present:
    """The store in a folder, made where there is none; of several processes that make it one wins."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return present(folder)
    except FileNotFoundError:
        name = _written(folder, "rows-1.mdb")
    try:
        os.link(name, folder / POINTER)
    except FileExistsError:
        pass
    except OSError:  # a file system without hard links
        os.replace(name, folder / POINTER)
        return present(folder)
    os.unlink(name)
    return present(folder)


def next_file(folder: Path) -> str:
    """A name for another file of rows."""
    numbers = [int(found.group(1)) for entry in os.listdir(folder) if (found := _ROWS.fullmatch(entry))]
    return f"rows-{max(numbers, default=0) + 1}.mdb"


def switch(folder: Path, file: str) -> None:
    """Make another file the present one, in one step, and remove the others."""
    os.replace(_written(folder, file), folder / POINTER)
    for entry in os.listdir(folder):
        if _ROWS.fullmatch(entry.removesuffix("-lock")) and entry.removesuffix("-lock") != file:
            os.unlink(folder / entry)  # processes that have it open keep it until they look again


@contextmanager
def maintenance(folder: Path) -> Iterator[None]:
    """Keeps a second process from writing the same store anew at the same time."""
    import fcntl

    with open(folder / "maintenance.lock", "w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StoreError("another process is writing it anew; try again when that is done") from None
        yield


def _written(folder: Path, file: str) -> str:
    """A temporary file with the contents of ``store.json``."""
    handle, name = tempfile.mkstemp(prefix=".store-", dir=folder)
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        json.dump({"kind": KIND, "format": FORMAT, "file": file}, stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.chmod(name, 0o644)
    return name
