"""Opens a file of rows after a look at what LMDB would trust: its size, its meta pages, its trees."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from kdhooks.cache import problems
from kdhooks.cache.packages import lmdb
from kdhooks.cache.pages import DamageError, metas
from kdhooks.cache.problems import StoreError
from kdhooks.cache.structure import check

READERS = 1022
_UNWRITTEN_PAGES = 8  # LMDB may count a few free pages at the end of a file that it has not written yet


def opened(path: Path, *, size_bound: int, read_only: bool, spaces: int, look: bool) -> Any:
    """LMDB's environment.

    Args:
        path: the file of rows; made where it is missing, unless it is only read.
        size_bound: how large it may become, in bytes.
        read_only: never write.
        spaces: how many tables there may be.
        look: look over its structure; a process that has done so need not do it again.

    Raises:
        StoreError: it is damaged or truncated, so that LMDB would not survive to follow it.
        OSError, lmdb.Error: it can't be read or written.
    """
    size = path.stat().st_size if path.exists() else 0
    units = max(size_bound, size, 1 << 17) // (1 << 16) + 1
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 33
    try:
        if size and look:
            metas(path)
        environment = lmdb.open(
            str(path),
            subdir=False,
            map_size=units << 16,
            readonly=read_only,
            create=not read_only,
            metasync=False,
            readahead=size < memory // 2,  # beyond that, what is read ahead pushes out what is read again
            max_readers=READERS,
            max_dbs=spaces,
            max_spare_txns=1,
            mode=0o644,
        )
        try:
            _check_size(path, environment, read_only)
            if look:
                check(path, environment)
            if not read_only:
                environment.reader_check()  # free the places of readers that were killed
        except BaseException:
            environment.close()
            raise
    except DamageError as error:
        raise StoreError(problems.DAMAGED_AT.format(file=path.name, what=error)) from None
    return environment


def _check_size(path: Path, environment: Any, read_only: bool) -> None:
    """Refuse a file that is shorter than LMDB believes: to read beyond its end would kill the process."""
    page = environment.stat()["psize"]
    wanted, size = (environment.info()["last_pgno"] + 1) * page, path.stat().st_size
    if size < wanted - _UNWRITTEN_PAGES * page or (size < wanted and read_only):
        raise StoreError(problems.TRUNCATED.format(file=path.name, size=size, wanted=wanted))
    if size < wanted:
        with open(path, "r+b") as stream:
            os.posix_fallocate(stream.fileno(), 0, wanted)  # never shrinks what another process wrote
