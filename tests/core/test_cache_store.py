"""A store under kills, damage, full disks and many processes: no wrong row, and no training that stops."""

from __future__ import annotations

import errno
import json
import logging
import os
import tempfile
from pathlib import Path

import lmdb
import numpy as np
import pytest

from kdhooks.cache import Codec, Store, StoreError, TeacherStore, row_keys
from kdhooks.cache import mounts as mounts_module
from kdhooks.cache.environment import Environment
from kdhooks.cache.maintenance import info, prune, verify
from tests.core.cache_programs import row, run


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


@pytest.mark.parametrize("content", [b"", b"x", b"\x80\x04cos\nsystem\n" * 700, bytes(9000)])
def test_a_foreign_lock_file_is_made_anew(tmp_path: Path, content: bytes) -> None:
    keys, rows = filled(tmp_path)
    (tmp_path / "rows-1.mdb-lock").write_bytes(content)
    with Store(tmp_path, strict=True) as store:
        store.space("space").put_many([b"key"], [b"row"])
        store.flush()
        assert store.space("space").get_many([*keys, b"key"]) == [*rows, b"row"]
    assert verify(tmp_path).ok


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


def test_a_folder_of_somebody_else() -> None:
    code = """
import os, sys
from kdhooks.cache import Store
if os.geteuid() == 0:  # whom permissions don't bind
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
for folder in sys.argv[1:]:
    store = Store(folder)
    space = store.space("space")
    space.put_many([b"key"], [b"row"])
    print(space.get_many([b"key"]), store.problem)
"""
    with tempfile.TemporaryDirectory() as name:
        filled(Path(name) / "store")
        for folder in (name, f"{name}/store"):
            os.chmod(folder, 0o555)
        try:
            out, error = run(code, f"{name}/new", f"{name}/store").communicate()
        finally:
            os.chmod(f"{name}/store", 0o755)
            os.chmod(name, 0o755)
    reason = "the folder can't be written (Permission denied)"
    assert out == f"[None] {reason}\n" * 2
    assert error == "".join(NO_USE.format(path=f"{name}/{end}", reason=reason) + "\n" for end in ("new", "store"))


def test_a_store_on_a_read_only_disk_is_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys, rows = filled(tmp_path)
    really = lmdb.open

    def refuse_writing(*words: object, readonly: bool, **more: object) -> lmdb.Environment:
        if not readonly:
            raise lmdb.Error("rows-1.mdb: Read-only file system")
        return really(*words, readonly=True, **more)

    monkeypatch.setattr(lmdb, "open", refuse_writing)
    with caplog.at_level(logging.WARNING, "kdhooks"), Store(tmp_path) as store:
        store.space("space").put_many([b"key"], [b"row"])
        assert store.space("space").get_many([*keys, b"key"]) == [*rows, None]
    reason = "the folder can't be written (Read-only file system)"
    assert caplog.messages == [NO_MORE.format(path=tmp_path, reason=reason)]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (lmdb.Error("mdb_txn_commit: No space left on device"), "the disk is full"),
        (lmdb.Error("mdb_txn_commit: Disk quota exceeded"), "the disk is full"),
        (lmdb.DiskError("mdb_txn_commit: Input/output error"), "the disk is full, or fails"),
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full"),
    ],
)
def test_a_disk_that_becomes_full(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    reason: str,
) -> None:
    keys, rows = filled(tmp_path)

    def fail(*_: object) -> None:
        raise error

    with caplog.at_level(logging.WARNING, "kdhooks"), Store(tmp_path, flush_rows=2) as store:
        monkeypatch.setattr(Environment, "flush", fail)
        for number in range(9):
            store.space("space").put_many([b"%d" % number], [b"row"])
        assert store.space("space").get_many([*keys, b"1"]) == [*rows, None]
    assert caplog.messages == [NO_MORE.format(path=tmp_path, reason=reason)]


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
