"""Damaged, truncated and foreign files: no process that ends, no wrong row, and nothing of them is executed."""

from __future__ import annotations

import json
import logging
import os
import pickle
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import lmdb
import numpy as np
import pytest

from kdhooks.cache import Codec, Store, StoreError, TeacherStore, opening, row_keys, structure
from kdhooks.cache.maintenance import prune, verify
from kdhooks.cache.pages import DamageError, Meta, metas
from kdhooks.cache.sealing import seal

ROOT = Path(__file__).resolve().parents[2]

USER = """
import json, logging, os, random, signal, sys
from collections import Counter
from hashlib import sha256
from kdhooks.cache import Store

logging.getLogger("kdhooks").setLevel(logging.CRITICAL)
folder, path, whole = sys.argv[1], sys.argv[2], open(sys.argv[2], "rb").read()
draw, size, begin, count = random.Random(sys.argv[3]), 4096, int(sys.argv[4]), int(sys.argv[5])


def row(number):
    digest = sha256(str(number).encode()).digest()
    return digest[:16], digest * (80 if number % 50 == 0 else 3)


def use():
    store = Store(folder, flush_rows=20)
    space = store.space("space")
    keys, rows = zip(*map(row, range(400)))
    found = space.get_many(keys)
    wrong = sum(mine not in (None, right) for mine, right in zip(found, rows))
    space.record()
    space.put_many(keys[:60], rows[:60])
    space.put_many(*zip(*map(row, range(1000, 1060))))
    store.close()
    return 1 if wrong else 0 if None not in found else 2


def damaged(number):
    data = bytearray(whole)
    page, kind = draw.randrange(len(data) // size) * size, number % 10
    if kind < 3:
        data[page + draw.randrange(16)] ^= 1 << draw.randrange(8)
    elif kind < 6:
        data[page + draw.randrange(16, 240)] = draw.choice([0, 255, draw.randrange(256)])
    elif kind < 8:
        data[page + draw.randrange(size)] ^= 1 << draw.randrange(8)
    else:
        other = draw.randrange(len(data) // size) * size
        data[page : page + size] = whole[other : other + size] if kind == 8 else draw.randbytes(size)
    return data


ends = Counter()
for number in range(begin, begin + count):
    with open(path, "wb") as stream:
        stream.write(damaged(number))
    child = os.fork()
    if not child:
        signal.alarm(60)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        code = 3
        try:
            code = use()
        finally:
            os._exit(code)
    ends[os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])] += 1
print(json.dumps(ends))
"""


def row(number: int) -> tuple[bytes, bytes]:
    digest = sha256(str(number).encode()).digest()
    return digest[:16], digest * (80 if number % 50 == 0 else 3)


def filled(folder: Path, count: int = 400) -> Path:
    """A store with several levels of pages, rows on pages of their own, and lists of free pages."""
    with Store(folder, strict=True, flush_rows=100) as store:
        store.space("space").describe({"fields": []})
        for begin in range(0, count, 100):
            store.space("space").put_many(*zip(*map(row, range(begin, min(begin + 100, count))), strict=True))
            store.flush()
    return folder / "rows-1.mdb"


def use_damaged(folder: Path, count: int) -> None:
    path = filled(folder)
    words = [sys.executable, "-c", USER, str(folder), str(path), "7", "0", str(count)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    ends = json.loads(done.stdout)
    assert set(ends) == {"0", "2"}, (
        "0: all rows are there, 2: some are missing; negative: the process was ended by a signal"
    )
    assert sum(ends.values()) == count


def test_a_file_with_damage_anywhere_ends_no_process_and_serves_no_wrong_row(tmp_path: Path) -> None:
    use_damaged(tmp_path, 100)


@pytest.mark.soak
def test_three_thousand_damaged_files(tmp_path: Path) -> None:
    use_damaged(tmp_path, 3_000)


@pytest.mark.parametrize(
    ("offset", "value", "what"),
    [
        (0, 9, "meta page 0"),
        (10, 0, "meta page 0"),
        (16, 0, "it is no LMDB file"),
        (40, 0, "meta page 0"),  # LMDB would divide by the size of a page
        (4096 + 44, 0x09, "meta page 1"),  # LMDB would map the file where the file says
        (4096 + 94, 77, "meta page 1"),  # more levels than LMDB has room for
    ],
)
def test_damaged_meta_pages(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, offset: int, value: int, what: str
) -> None:
    path = filled(tmp_path, 100)
    data = bytearray(path.read_bytes())
    data[offset] = value
    if what == "it is no LMDB file":
        data[offset : offset + 4] = b"\0\0\0\0"
    if offset == 40:
        data[40:44] = b"\0\0\0\0"
    path.write_bytes(data)
    assert refused(tmp_path, caplog) == f"its file rows-1.mdb is damaged ({what})"


def refused(folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    """Why a store isn't used; the training goes on, a strict program stops."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, "kdhooks"), Store(folder) as store:
        assert store.space("space").get_many([row(1)[0]]) == [None]
        store.space("space").put_many([b"key"], [b"row"])
    begin, end = f"the cache {folder} is not used: ", ". Training goes on without it."
    (message,) = caplog.messages
    assert message.startswith(begin) and message.endswith(end)
    reason = message.removeprefix(begin).removesuffix(end)
    with pytest.raises(StoreError) as error:
        Store(folder, strict=True)
    assert str(error.value) == f"{folder}: {reason}"
    with pytest.raises(StoreError) as error:
        verify(folder)
    assert str(error.value) == f"{folder}: {reason}"
    return reason.removesuffix("; delete the folder, and it is filled again")


def leaf_and_overflow(path: Path) -> tuple[int, int]:
    """Where a leaf page with a row on pages of its own begins, and where those pages begin."""
    data = path.read_bytes()
    big = data.rindex(row(50)[1]) - 16
    for begin in range(8192, len(data), 4096):
        if data[begin + 10] == 2 and row(50)[0] in data[begin : begin + 4096] and big - begin:
            return begin, big
    raise AssertionError


@pytest.mark.parametrize(
    "damage",
    [
        lambda data, leaf, big: (big + 15, 0x7F),  # a row on two billion pages
        lambda data, leaf, big: (big + 10, 2),
        lambda data, leaf, big: (leaf + 0, data[leaf] ^ 1),
        lambda data, leaf, big: (leaf + 10, 1),
        lambda data, leaf, big: (leaf + 13, 0x7F),
        lambda data, leaf, big: (leaf + 15, 0xFF),
        lambda data, leaf, big: (leaf + 17, 0xFF),
        lambda data, leaf, big: (leaf + 16, data[leaf + 16] ^ 1),
    ],
)
def test_damaged_pages_are_found_before_lmdb_follows_them(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes, int, int], tuple[int, int]]
) -> None:
    path = filled(tmp_path, 100)
    prune(tmp_path)
    path = tmp_path / "rows-2.mdb"
    leaf, big = leaf_and_overflow(path)
    data = bytearray(path.read_bytes())
    at, value = damage(data, leaf, big)
    assert data[at] != value
    data[at] = value
    path.write_bytes(data)
    page = at // 4096
    assert refused(tmp_path, caplog) == f"its file rows-2.mdb is damaged (page {page})"


def test_a_size_that_leaves_its_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path, 100)
    prune(tmp_path)
    path = tmp_path / "rows-2.mdb"
    data = bytearray(path.read_bytes())
    at = data.index(row(1)[0]) - 8
    data[at + 3] = 0x7F  # of two billion bytes
    path.write_bytes(data)
    assert refused(tmp_path, caplog) == f"its file rows-2.mdb is damaged (page {at // 4096})"


def test_of_a_very_large_table_only_the_upper_pages_are_looked_at_before_it_is_verified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, 400)
    prune(tmp_path)
    path = tmp_path / "rows-2.mdb"
    data = bytearray(path.read_bytes())
    at = data.index(row(1)[0]) - 8
    data[at + 3] = 0x7F
    path.write_bytes(data)
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as file:
        with pytest.raises(DamageError):
            structure.check(path, file)
        structure.check(path, file, leaves=3)
    monkeypatch.setattr(opening, "check", lambda path, file: structure.check(path, file, leaves=3))
    found = verify(tmp_path)
    assert (found.rows, found.bad, found.damage) == (0, {}, (f"page {at // 4096}",))


def test_a_file_that_is_written_to_while_it_is_looked_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = filled(tmp_path, 100)
    read: list[list[Meta]] = []

    def late(path: Path) -> list[Meta]:
        read.append(metas(path))
        return [replace(said, commit=said.commit + 2) for said in read[-1]] if len(read) < 4 else read[-1]

    monkeypatch.setattr(structure, "metas", late)
    with lmdb.open(str(path), subdir=False) as file:
        structure.check(path, file)
        assert len(read) == 4, "two commits later the meta page is another one's, and the look begins anew"
        monkeypatch.setattr(structure, "metas", lambda path: [replace(said, commit=9999) for said in metas(path)])
        with pytest.raises(DamageError, match="its meta pages"):
            structure.check(path, file)


def test_truncated_files_at_many_places(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = filled(tmp_path)
    whole = path.read_bytes()
    for size in [*range(1, 600, 97), 4096, 8191, 8192, *range(8200, len(whole) - 9 * 4096, 9001)]:
        path.write_bytes(whole[:size])
        said = refused(tmp_path, caplog)
        truncated = f"its file rows-1.mdb is truncated ({size:,} of {len(whole):,} bytes)"
        assert said in (truncated, "its file rows-1.mdb is damaged (it is no LMDB file)") or "meta page 0" in said, said


class Trap:
    """Makes a file where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return os.mkdir, (str(self.mark),)


def foreign_files(folder: Path) -> dict[str, bytes]:
    database = folder / "foreign.sqlite"
    with sqlite3.connect(database) as connection:
        connection.execute("create table rows (a text)")
    connection.close()
    draw = np.random.default_rng(0)
    return {
        "pickle": pickle.dumps(Trap(folder / "unpickled")) * 400,
        "sqlite": database.read_bytes(),
        "noise": draw.bytes(70_000),
        "zeros": bytes(70_000),
        "text": b"#!/bin/sh\ntouch executed\n" * 4000,
    }


@pytest.mark.parametrize("kind", ["pickle", "sqlite", "noise", "zeros", "text"])
def test_foreign_files_are_never_executed(tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str) -> None:
    folder = tmp_path / "store"
    path = filled(folder, 100)
    alien = foreign_files(tmp_path)[kind]
    before = sorted(entry.name for entry in tmp_path.iterdir())
    path.write_bytes(alien)
    assert refused(folder, caplog) == "its file rows-1.mdb is damaged (it is no LMDB file)"
    assert path.read_bytes() == alien
    (folder / "store.json").write_bytes(alien)
    assert refused(folder, caplog) == "it holds something else, not teacher outputs of kdhooks; name another folder"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == before


def test_a_pickle_as_a_row_or_as_a_record_is_bytes_and_nothing_else(tmp_path: Path) -> None:
    trap = pickle.dumps(Trap(tmp_path / "unpickled"))
    with Store(tmp_path / "store", strict=True) as store:
        space = store.space("space")
        store._records["space"] = seal(b"space space", trap)
        space.put_many([b"key"], [trap])
        store.flush()
        assert space.get_many([b"key"]) == [trap]
        assert space.record() is None
    assert not (tmp_path / "unpickled").exists()


@pytest.mark.parametrize("codec", [Codec("float16", top_k=3), Codec("int8"), Codec()])
def test_every_flipped_byte_of_a_stored_row_is_found_and_the_row_computed_again(tmp_path: Path, codec: Codec) -> None:
    images = np.random.default_rng(3).standard_normal((3, 8), dtype=np.float32)
    keys = row_keys(images)
    with Store(tmp_path, strict=True) as store:
        right = TeacherStore(store, "name", {"logits": codec}).store_rows(keys, {"logits": images})
    path = tmp_path / "rows-1.mdb"
    whole = path.read_bytes()
    at = whole.rindex(keys[1]) - 8
    length = int.from_bytes(whole[at : at + 2], "little")
    for offset in range(8, 24 + length):  # key, payload and checksum
        damaged = bytearray(whole)
        damaged[at + offset] ^= 1 << offset % 8
        path.write_bytes(damaged)
        with Store(tmp_path, strict=True) as store:
            outputs, asked = TeacherStore(store, "name", {"logits": codec}), []

            def teacher(places: np.ndarray, asked: list[list[int]] = asked) -> dict[str, np.ndarray]:
                asked.append(places.tolist())
                return {"logits": images[places]}

            said = outputs.serve(keys, teacher)["logits"]
            again = outputs.serve(keys, teacher)["logits"]
        assert 1 in asked[0] and len(asked) == 1, offset  # a flipped key may hide its neighbour too
        for found in (said, again):
            assert np.array_equal(*(one.dense() if codec.top_k else one for one in (found, right["logits"]))), offset
