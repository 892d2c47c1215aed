"""Many processes at one store: killed ones, readers beside writers, forked ones."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from kdhooks.cache import Store
from kdhooks.cache.maintenance import verify
from tests.core.cache_programs import row, run

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
space, end, hits = store.space("space"), time.monotonic() + float(sys.argv[4]), 0
reopened = time.monotonic()
while time.monotonic() < end:
    if sys.argv[2] == "read" and time.monotonic() > reopened + 0.5:  # in the midst of the others' commits
        assert not space.bad
        hits, reopened = hits + space.hits, time.monotonic()
        store.close()
        store = Store(sys.argv[1], strict=True)
        space = store.space("space")
    digests = [sha256(str(draw.randrange(5000)).encode()).digest() for _ in range(64)]
    keys = [digest[:16] for digest in digests]
    if sys.argv[2] == "write":
        space.put_many(keys, [digest * 3 for digest in digests])
    else:
        for row, digest in zip(space.get_many(keys), digests):
            assert row is None or row == digest * 3
store.close()
assert not space.bad and not store.write_problem and store.problem == "it is closed"
print(hits + space.hits)
"""


def kill_many(folder: Path, kills: int, at_once: int = 5) -> None:
    """Processes fill one store side by side, and are killed at different moments, in the midst of a flush too."""
    put: dict[int, int] = {}
    for first in range(0, kills, at_once):
        processes = {begin: run(FILLER, folder, begin) for begin in range(first, first + at_once)}
        for process in processes.values():
            assert process.stdout is not None
            process.stdout.readline()
        for begin, process in processes.items():
            assert process.stdout is not None and process.stderr is not None
            time.sleep(0.01 * (begin % 13))
            process.send_signal(signal.SIGKILL)
            lines = process.stdout.read().split("\n")
            assert (process.wait(), process.stderr.read()) == (-signal.SIGKILL, "")
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
    kill_many(tmp_path / "store", 20)


@pytest.mark.soak
def test_two_hundred_killed_processes(tmp_path: Path) -> None:
    kill_many(tmp_path / "store", 200)


def mixed(folder: Path, seconds: float) -> None:
    processes = [run(MIXED, folder, "write" if n < 2 else "read", n, seconds) for n in range(10)]
    ends = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0] * 10, ends
    assert [error for _, error in ends] == [""] * 10
    assert all(int(out) > 0 for out, _ in ends[2:])
    assert verify(folder).ok


def test_eight_readers_and_two_writers(tmp_path: Path) -> None:
    mixed(tmp_path / "store", 6)


@pytest.mark.soak
def test_eight_readers_and_two_writers_for_a_minute(tmp_path: Path) -> None:
    mixed(tmp_path / "store", 60)


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
