"""A store under kills, damage, full disks and many processes: no wrong row, and no training that stops."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import lmdb
import numpy as np
import pytest

from kdhooks.cache import Codec, Store, StoreError, TeacherStore, row_keys
from kdhooks.cache import mounts as mounts_module
from kdhooks.cache.maintenance import info, prune, verify

ROOT = Path(__file__).resolve().parents[2]
FLUSH = 50

FILLER = f"""
import sys
from hashlib import sha256
from kdhooks.cache import Store
store = Store(sys.argv[1], flush_rows={FLUSH}, flush_seconds=1e9)
space, number, begin = store.space("space"), 0, int(sys.argv[2])
while True:
    name = f"{{begin}} {{number}}".encode()
    digest = sha256(name).digest()
    space.put_many([digest[:16]], [digest * 3])
    number += 1
    print(number, flush=True)
"""

MIXED = """
import random, sys, time
from hashlib import sha256
from kdhooks.cache import Store
store, draw = Store(sys.argv[1], flush_rows=100), random.Random(sys.argv[3])
space, end = store.space("space"), time.monotonic() + float(sys.argv[4])
while time.monotonic() < end:
    digests = [sha256(str(draw.randrange(5000)).encode()).digest() for _ in range(64)]
    keys = [digest[:16] for digest in digests]
    if sys.argv[2] == "write":
        space.put_many(keys, [digest * 3 for digest in digests])
    else:
        for row, digest in zip(space.get_many(keys), digests):
            assert row is None or row == digest * 3
store.close()
assert not space.bad and not store.write_problem and store.problem == "it is closed"
print(space.hits)
"""


def run(code: str, *arguments: object) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def row(name: str) -> tuple[bytes, bytes]:
    digest = sha256(name.encode()).digest()
    return digest[:16], digest * 3


def kill_many(folder: Path, kills: int) -> None:
    put: dict[int, int] = {}
    for begin in range(kills):
        process = run(FILLER, folder, begin)
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        time.sleep(0.01 * (begin % 13))
        process.send_signal(signal.SIGKILL)
        lines = process.stdout.read().split("\n")
        process.wait()
        process.stdout.close()
        process.stderr.close()
        put[begin] = max((int(line) for line in lines[:-1] if line), default=1)
    found = verify(folder)
    assert found.ok
    with Store(folder, strict=True) as store:
        space = store.space("space")
        for begin, count in put.items():
            keys, rows = zip(*(row(f"{begin} {number}") for number in range(count)), strict=True)
            stored = space.get_many(keys)
            there = [mine for mine in stored if mine is not None]
            assert there == list(rows[: len(there)]), "the flushed rows are there, the later ones missing"
            assert count - len(there) <= FLUSH
        assert space.bad == 0


def test_killed_processes_lose_at_most_what_they_had_not_flushed(tmp_path: Path) -> None:
    kill_many(tmp_path / "store", 15)


@pytest.mark.soak
def test_two_hundred_killed_processes(tmp_path: Path) -> None:
    kill_many(tmp_path / "store", 200)


def mixed(folder: Path, seconds: float) -> None:
    processes = [run(MIXED, folder, "write" if n < 2 else "read", n, seconds) for n in range(10)]
    ends = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, ends
    assert [error for _, error in ends] == [""] * 10
    assert verify(folder).ok


def test_eight_readers_and_two_writers(tmp_path: Path) -> None:
    mixed(tmp_path / "store", 2)


@pytest.mark.soak
def test_eight_readers_and_two_writers_for_a_minute(tmp_path: Path) -> None:
    mixed(tmp_path / "store", 60)


def filled(folder: Path, count: int = 8) -> tuple[list[bytes], list[bytes]]:
    keys, rows = map(list, zip(*(row(str(number)) for number in range(count)), strict=True))
    with Store(folder, strict=True) as store:
        store.space("space").describe({"fields": []})
        store.space("space").put_many(keys, rows)
    return keys, rows


def test_every_flipped_byte_of_a_row_is_found_and_the_row_stored_again(tmp_path: Path) -> None:
    keys, rows = filled(tmp_path, 1)
    path = tmp_path / "rows-1.mdb"
    whole = path.read_bytes()
    at = whole.rindex(rows[0])
    for offset in range(len(rows[0]) + 4):
        damaged = bytearray(whole)
        damaged[at + offset] ^= 0x10
        path.write_bytes(damaged)
        with Store(tmp_path, strict=True) as store:
            space = store.space("space")
            assert (space.get_many(keys), space.bad, space.misses) == ([None], 1, 1)
    assert verify(tmp_path).bad == {"space": 1}
    with Store(tmp_path, strict=True) as store:
        store.space("space").put_many(keys, rows)
        assert store.space("space").get_many(keys) == rows
    assert verify(tmp_path).ok


def unused(folder: Path, caplog: pytest.LogCaptureFixture) -> str:
    with caplog.at_level(logging.WARNING, "kdhooks"):
        store = Store(folder)
        space = store.space("space")
        space.put_many([b"key"], [b"row"])
        assert space.get_many([b"key"]) == [None]
        store.close()
    with pytest.raises(StoreError):
        Store(folder, strict=True)
    assert len(caplog.messages) == 1
    return caplog.messages[0]


NO_USE = "the cache {path} is not used: {reason}. Training goes on without it."


@pytest.mark.parametrize(
    ("pointer", "reason"),
    [
        ("garbage", "it holds something else, not teacher outputs of kdhooks; name another folder"),
        ("[" * 4000, "it holds something else, not teacher outputs of kdhooks; name another folder"),
        (
            json.dumps({"kind": "kdhooks teacher outputs", "format": 2}),
            "it is of format 2, of a newer kdhooks, and this one reads 1; update kdhooks, or name another folder",
        ),
        (
            json.dumps({"kind": "kdhooks teacher outputs", "format": 1, "file": "../rows-1.mdb"}),
            "it holds something else, not teacher outputs of kdhooks; name another folder",
        ),
    ],
)
def test_foreign_folders_and_newer_formats(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, pointer: str, reason: str
) -> None:
    (tmp_path / "store.json").write_text(pointer)
    assert unused(tmp_path, caplog) == NO_USE.format(path=tmp_path, reason=reason)


def test_a_foreign_file_of_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path)
    (tmp_path / "rows-1.mdb").write_bytes(b"\x80\x04cos\nsystem\n" * 5000)
    reason = "its file rows-1.mdb is damaged (it is no LMDB file); delete the folder, and it is filled again"
    assert unused(tmp_path, caplog) == NO_USE.format(path=tmp_path, reason=reason)


def test_a_truncated_file_of_rows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    filled(tmp_path, 3000)
    path = tmp_path / "rows-1.mdb"
    size = path.stat().st_size
    os.truncate(path, 16384)
    reason = f"its file rows-1.mdb is truncated (16,384 of {size:,} bytes); delete the folder, and it is filled again"
    assert unused(tmp_path, caplog) == NO_USE.format(path=tmp_path, reason=reason)


def test_a_network_file_system_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mounts"
    table.write_text(f"/dev/sda / ext4 rw 0 0\nserver:/x {tmp_path}/my\\040disk nfs4 rw 0 0\n")
    monkeypatch.setattr(mounts_module, "MOUNTS", table)
    reason = "it lies on a network file system (nfs4), where mapped files lose rows; name a folder on a local disk"
    folder = tmp_path / "my disk" / "store"
    assert unused(folder, caplog) == NO_USE.format(path=folder, reason=reason)
    assert not Store(tmp_path / "local", strict=True).problem


def test_a_folder_that_cannot_be_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise lmdb.Error("rows-1.mdb: Permission denied")

    monkeypatch.setattr(lmdb, "open", refuse)
    reason = "the folder can't be written (Permission denied)"
    assert unused(tmp_path, caplog) == NO_USE.format(path=tmp_path, reason=reason)


NO_MORE = "the cache {path} stores nothing more: {reason}. What is stored is still read."


def test_at_its_bound_it_stores_nothing_more_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kdhooks"), Store(tmp_path, size_bound=1 << 18, flush_rows=100) as store:
        space = store.space("space")
        for number in range(5000):
            space.put_many(*([item] for item in row(str(number))))
        key, first = row("0")
        assert space.get_many([key]) == [first]
    reason = "it has reached its size bound of 262,144 bytes"
    assert caplog.messages == [NO_MORE.format(path=tmp_path, reason=reason)]


def test_a_full_disk(tmp_path: Path) -> None:
    code = """
import resource, sys
from kdhooks.cache import Store
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, 1 << 18))
store = Store(sys.argv[1], flush_rows=100)
space = store.space("space")
for number in range(5000):
    space.put_many([b"%016d" % number], [b"x" * 96])
print(space.get_many([b"%016d" % 0]) == [b"x" * 96], store.write_problem)
"""
    out, error = run(code, tmp_path).communicate()
    assert out == "True the disk is full, or fails\n"
    assert error == NO_MORE.format(path=tmp_path, reason="the disk is full, or fails") + "\n"


def test_a_forked_child_opens_the_store_anew_and_the_parent_goes_on(tmp_path: Path) -> None:
    code = """
import os, sys
from kdhooks.cache import Store
store = Store(sys.argv[1], strict=True)
space = store.space("space")
space.put_many([b"early"], [b"1"])
store.flush()
space.put_many([b"waits"], [b"2"])
child = os.fork()
if not child:
    found = space.get_many([b"early", b"waits"])
    space.put_many([b"child"], [b"3"])
    store.close()
    sys.exit(found != [b"1", None])
assert os.waitpid(child, 0)[1] == 0
print(space.get_many([b"early", b"waits", b"child"]))
"""
    out, error = run(code, tmp_path).communicate()
    assert (out, error) == ("[b'1', b'2', b'3']\n", "")


def test_pruning_under_an_open_store_keeps_its_rows(tmp_path: Path) -> None:
    keys, rows = filled(tmp_path)
    with Store(tmp_path, strict=True) as store:
        assert store.space("space").get_many(keys) == rows
        store.space("space").put_many([b"waits"], [b"row"])
        assert prune(tmp_path).rows == len(rows)
        assert store.space("space").get_many([*keys, b"waits"]) == [*rows, b"row"]
    assert info(tmp_path).rows == len(rows) + 1
    with pytest.raises(StoreError) as error:
        prune(tmp_path, keep=["other"])
    assert str(error.value) == f"{tmp_path}: it has no space other"


def test_cold_warm_and_mixed_batches_see_the_same_numbers(tmp_path: Path) -> None:
    images = np.random.default_rng(0).standard_normal((6, 4), dtype=np.float32)
    images[5] = images[0]
    with Store(tmp_path, strict=True) as store:
        outputs = TeacherStore(store, "name", {"logits": Codec("int8")})
        keys = row_keys(images)
        cold = outputs.serve(keys[:3], lambda at: {"logits": images[at] * 3})["logits"]
        asked: list[list[int]] = []

        def teacher(at: np.ndarray) -> dict[str, np.ndarray]:
            asked.append(at.tolist())
            return {"logits": images[at] * 3}

        mixed_batch = outputs.serve(keys, teacher)["logits"]
        warm = outputs.serve(keys[::-1], teacher)["logits"]
    assert asked == [[3, 4]]
    assert np.array_equal(mixed_batch[:3], cold) and np.array_equal(warm[::-1], mixed_batch)
