"""The format of LMDB's pages, as far as it takes to look them over: that of LMDB 0.9, in the machine's order of bytes.

From `mdb.c`: MDB_page, MDB_meta and MDB_db; a node (MDB_node) is four words of 16 bits before its key.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HEAD, NODE = 16, 8
BRANCH, LEAF, OVERFLOW, META = 1, 2, 4, 8
BIG, TABLE = 1, 2

_MAGIC, _VERSION = 0xBEEFC0DE, 1
_INTEGER_KEYS, _NO_FOLDER = 0x08, 0x4000
_NONE = (1 << 64) - 1
_DEPTH = 32
_TRIES = 5

TREE = np.dtype(
    [
        *(("pad", "=u4"), ("flags", "=u2"), ("depth", "=u2"), ("branches", "=u8"), ("leaves", "=u8")),
        *(("overflows", "=u8"), ("entries", "=u8"), ("root", "=u8")),
    ]
)
_SAID = np.dtype(
    [
        *(("number", "=u8"), ("pad", "=u2"), ("kind", "=u2"), ("bounds", "=u4"), ("magic", "=u4"), ("version", "=u4")),
        *(("address", "=u8"), ("map", "=u8"), ("free", TREE), ("main", TREE), ("last", "=u8"), ("commit", "=u8")),
    ]
)


class DamageError(Exception):
    """What is wrong with a file, as part of a sentence."""


@dataclass(frozen=True)
class Tree:
    """Where a table begins, how many levels it has, of how many leaf pages; without a root it is empty."""

    root: int | None
    depth: int
    leaves: int

    @classmethod
    def of(cls, said: Any, flags: int = 0) -> Tree:
        """From a record of the format `TREE`.

        Raises:
            DamageError: it describes no table that a store has.
        """
        root, depth = int(said["root"]), int(said["depth"])
        empty = root == _NONE
        if int(said["flags"]) != flags or not (depth == 0 if empty else 0 < depth < _DEPTH):
            raise DamageError("a table's record")
        return cls(None if empty else root, depth, int(said["leaves"]))


@dataclass(frozen=True)
class Meta:
    """What a meta page says: how large pages are, the last page, the commit, and the trees of tables and free pages."""

    size: int
    last: int
    commit: int
    main: Tree
    free: Tree


def metas(path: Path) -> list[Meta]:
    """Both meta pages of a file; none where it is empty or of another version of LMDB, which LMDB refuses by itself.

    Raises:
        DamageError: they are not what LMDB writes.
    """
    for attempt in range(_TRIES):
        with open(path, "rb") as stream:
            data = stream.read(2 << 16)
        try:
            return _metas(data) if data else []
        except DamageError:
            if attempt == _TRIES - 1:
                raise
        time.sleep(0.01)  # of a commit that is being written a part may have been seen
    return []


def _metas(data: bytes) -> list[Meta]:
    if len(data) < 2 * _SAID.itemsize:
        raise DamageError("it is no LMDB file")
    first: Any = np.frombuffer(data, _SAID, 1)[0]
    size = int(first["free"]["pad"])
    if first["magic"] != _MAGIC:
        raise DamageError("it is no LMDB file")
    if first["version"] != _VERSION:
        return []
    if size not in (1 << bits for bits in range(9, 17)) or len(data) < size + _SAID.itemsize:
        raise DamageError("meta page 0")
    return [_meta(said, number, size) for number, said in enumerate((first, np.frombuffer(data, _SAID, 1, size)[0]))]


def _meta(said: Any, number: int, size: int) -> Meta:
    flags = int(said["free"]["flags"])
    right = (number, META, _MAGIC, _VERSION, size, _INTEGER_KEYS)
    name = ("number", "kind", "magic", "version")
    if (*(int(said[part]) for part in name), int(said["free"]["pad"]), flags & ~_NO_FOLDER) != right:
        raise DamageError(f"meta page {number}")
    try:
        main, free = Tree.of(said["main"]), Tree.of(said["free"], flags)
    except DamageError:
        raise DamageError(f"meta page {number}") from None
    return Meta(size, int(said["last"]), int(said["commit"]), main, free)
