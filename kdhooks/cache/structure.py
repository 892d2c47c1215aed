"""Looks over the pages of an LMDB file before LMDB follows them.

LMDB maps the file and trusts it: a flipped bit in a page's header or in a node's size lets it read beyond the file,
and that ends the process, with no error to catch. Rows have checksums, pages have none. So whoever opens a store
first walks its trees as numbers in NumPy: every page of the snapshot has to be what its parent takes it for, every
node has to lie within its page, and no page may be there twice or be free as well. Contents are not looked at: what
is wrong there a row's checksum finds, or the row is missing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.cache.pages import BIG, BRANCH, HEAD, LEAF, NODE, OVERFLOW, TABLE, TREE, DamageError, Meta, Tree, metas

LEAVES = 1 << 18
"""Of a table with more leaf pages than these (1 GiB) only the pages above them are looked at, to open it in time."""

_AT_ONCE = 4096
_TRIES = 100

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class _Nodes:
    """Some nodes: the page of each, where it begins in words of 16 bits, its flags, its key's size and its data's."""

    pages: Whole
    begins: Whole
    flags: Whole
    keys: Whole
    sizes: Whole

    @property
    def data(self) -> Whole:
        """Where the data begins, in bytes."""
        return 2 * self.begins + NODE + self.keys


def check(path: Path, environment: Any, *, leaves: int = LEAVES) -> None:
    """Look over the pages of a file's last commit.

    Args:
        path: the file.
        environment: LMDB's, which has it open, but follows no page yet.
        leaves: of a table with more leaf pages only the pages above them are looked at.

    Raises:
        DamageError: LMDB could not follow it.
    """
    for _ in range(_TRIES):
        with environment.begin() as transaction:  # as long as it is there, nobody writes over its pages
            if _looked_over(path, transaction.id(), leaves):
                return
    raise DamageError("its meta pages")


def _looked_over(path: Path, commit: int, leaves: int) -> bool:
    """False where two later commits have replaced this one's meta page meanwhile."""
    both = metas(path) if commit else []
    said = next((said for said in both if said.commit == commit), None)
    if said is not None:
        _Walk(path, said, leaves).all()
    return said is not None or not both


class _Walk:
    def __init__(self, path: Path, said: Meta, leaves: int) -> None:
        self.said, self.size, self.leaves = said, said.size, leaves
        data = np.memmap(path, np.uint8, "r")
        self.pages = min(said.last + 1, len(data) // self.size)  # a few free pages at the end may be unwritten
        self.data = data[: self.pages * self.size]
        self.words = self.data.view(np.uint16)
        self.numbers = self.data.view(np.uint64)
        self.seen = np.zeros(self.pages, bool)
        self.seen[:2] = True

    def all(self) -> None:
        """Every table, then the free pages."""
        tables: list[Tree] = []
        for nodes in self._nodes_of(self.said.main, len(self.numbers)):
            tables += self._tables(nodes)
            self._overflows(nodes)
        for table in tables:
            for nodes in self._nodes_of(table, self.leaves):
                _demand((nodes.flags & ~BIG) == 0, nodes.pages)
                self._overflows(nodes)
        for nodes in self._nodes_of(self.said.free, len(self.numbers), least=1):
            _demand(((nodes.flags & ~BIG) == 0) & (nodes.keys == 8), nodes.pages)
            self._free(nodes, self._overflows(nodes))

    def _nodes_of(self, tree: Tree, leaves: int, least: int = 2) -> Iterator[_Nodes]:
        """The nodes of a tree's leaf pages, after all pages above them."""
        if tree.root is None:
            return
        level = np.array([tree.root]).astype(np.int64)
        for _ in range(tree.depth - 1):
            self._claim(level)
            parts = [self._nodes(pages, BRANCH, least) for pages in _chunks(level)]
            level = np.concatenate([nodes.sizes | nodes.flags << 32 for nodes in parts])
        self._claim(level)
        if len(level) <= leaves:
            yield from (self._nodes(pages, LEAF, 1) for pages in _chunks(level))

    def _claim(self, pages: Whole) -> None:
        """Pages must be in the file, and belong to nobody else."""
        _demand((pages >= 2) & (pages < self.pages), pages)
        _demand(~self.seen[pages], pages)
        if len(np.unique(pages)) != len(pages):
            raise DamageError("a page that is there twice")
        self.seen[pages] = True

    def _nodes(self, pages: Whole, kind: int, least: int) -> _Nodes:
        begins = pages * (self.size // 2)
        lower, upper = (self.words[begins + at].astype(np.int64) for at in (6, 7))
        counts = (lower - HEAD) >> 1
        right = (self.numbers[begins >> 2] == pages.astype(np.uint64)) & (self.words[begins + 5] == kind)
        _demand(right & (lower % 2 == 0) & (counts >= least) & (lower <= upper) & (upper <= self.size), pages)
        owner = np.repeat(np.arange(len(pages)), counts)
        place = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts)
        offsets = self.words[begins[owner] + HEAD // 2 + place].astype(np.int64)
        _demand((offsets % 2 == 0) & (offsets >= upper[owner]) & (offsets <= self.size - NODE), pages[owner])
        starts = begins[owner] + offsets // 2
        low, high, flags, keys = (self.words[starts + at].astype(np.int64) for at in range(4))
        sizes = low | high << 16
        inside = 0 if kind == BRANCH else np.where(flags & BIG, 8, sizes)
        _demand(offsets + NODE + keys + inside <= self.size, pages[owner])
        return _Nodes(pages[owner], starts, flags, keys, sizes)

    def _tables(self, nodes: _Nodes) -> list[Tree]:
        """The tables that the main one names."""
        _demand((nodes.flags == TABLE) | ((nodes.flags & ~BIG) == 0), nodes.pages)
        named = nodes.flags == TABLE
        _demand(~named | (nodes.sizes == TREE.itemsize), nodes.pages)
        begins = nodes.data[named].tolist()
        return [Tree.of(np.frombuffer(self.data[at : at + TREE.itemsize], TREE)[0]) for at in begins]

    def _overflows(self, nodes: _Nodes) -> Whole:
        """Data that lies on pages of its own; returns where the data of each node begins, in bytes."""
        begins = nodes.data
        big = np.flatnonzero(nodes.flags & BIG)
        if not len(big):
            return begins
        words = begins[big, None] // 2 + np.arange(4)
        if (begins[big] % 2).any():  # behind a key of odd length
            words = begins[big, None] + np.arange(8)
            parts = self.data[words].view(np.uint64)[:, 0]
        else:
            parts = self.words[words].view(np.uint64)[:, 0]
        firsts, wanted = parts.astype(np.int64), -(-(nodes.sizes[big] + HEAD) // self.size)
        _demand((firsts >= 2) & (firsts + wanted <= self.pages), nodes.pages[big])
        heads = firsts * (self.size // 2)
        counts = self.words[heads + 6].astype(np.int64) | self.words[heads + 7].astype(np.int64) << 16
        right = (self.numbers[heads >> 2] == parts) & (self.words[heads + 5] == OVERFLOW) & (counts == wanted)
        _demand(right, firsts)
        owner = np.repeat(np.arange(len(big)), wanted)
        self._claim(firsts[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(wanted) - wanted, wanted))
        begins[big] = firsts * self.size + HEAD
        return begins

    def _free(self, nodes: _Nodes, begins: Whole) -> None:
        """Lists of free pages: their length, then the pages, the last one first."""
        for page, begin, size in zip(nodes.pages.tolist(), begins.tolist(), nodes.sizes.tolist(), strict=True):
            listed = np.frombuffer(self.data[begin : begin + size // 8 * 8].tobytes(), np.uint64).astype(np.int64)
            if size % 8 or not len(listed) or not 0 <= listed[0] < len(listed):
                raise DamageError(f"page {page}")
            free = listed[1 : 1 + listed[0]]
            _demand((free >= 2) & (free <= self.said.last), np.full(len(free), page))
            _demand(np.diff(free) < 0, np.full(max(len(free) - 1, 0), page))
            self._claim(free[free < self.pages])


def _chunks(pages: Whole) -> Iterator[Whole]:
    return (pages[begin : begin + _AT_ONCE] for begin in range(0, len(pages), _AT_ONCE))


def _demand(right: NDArray[np.bool_], pages: Whole) -> None:
    if not right.all():
        raise DamageError(f"page {pages[np.flatnonzero(~right)[0]]}")
