"""Building a store, again after an interruption, and writing it anew."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdhooks.cache import Codec, Store, StoreError, TeacherStore, row_keys
from kdhooks.cache.maintenance import build, info, prune, verify
from tests.core.cache_programs import run

IMAGES = np.random.default_rng(11).standard_normal((40, 6), dtype=np.float32)
NAME = "0" * 32
Batch = tuple[list[bytes], Callable[[Any], dict[str, Any]]]


def batches(asked: list[int], stop: int | None = None) -> Iterator[Batch]:
    """Batches of four images, and a teacher that writes down what it was asked for."""
    for begin in range(0, len(IMAGES), 4):
        if begin == stop:
            raise KeyboardInterrupt
        images = IMAGES[begin : begin + 4]

        def teacher(places: Any, images: Any = images, begin: int = begin) -> dict[str, Any]:
            asked.extend((begin + places).tolist())
            return {"logits": images[places] * 2}

        yield row_keys(images), teacher


def outputs(store: Store) -> TeacherStore:
    return TeacherStore(store, NAME, {"logits": Codec()})


def test_build_goes_on_where_it_was_interrupted(tmp_path: Path) -> None:
    asked: list[int] = []
    done: list[int] = []
    with Store(tmp_path, strict=True) as store, pytest.raises(KeyboardInterrupt):
        build(outputs(store), batches(asked, stop=24), done.append)
    assert asked == list(range(24)) and done == [4] * 6
    with Store(tmp_path, strict=True) as store:
        built = build(outputs(store), batches(asked), done.append)
        assert asked == list(range(40)) and sum(done) == 24 + 40
        assert np.array_equal(outputs(store).lookup(row_keys(IMAGES)).rows["logits"], IMAGES * 2)
    assert (built.rows, verify(tmp_path).ok) == (40, True)
    assert [entry.name for entry in sorted(tmp_path.glob("rows-*.mdb"))] == ["rows-2.mdb"]


def test_build_goes_on_after_a_kill_with_what_was_flushed(tmp_path: Path) -> None:
    code = """
import itertools, sys
import numpy as np
from kdhooks.cache import Codec, Store, TeacherStore, row_keys
from kdhooks.cache.maintenance import build
rows = np.arange(4000, dtype=np.float32).reshape(1000, 4)

def batches():
    for number in itertools.count():
        part = rows[10 * number : 10 * number + 10]
        print(number, flush=True)
        yield row_keys(part), lambda places, part=part: {"logits": part[places]}

build(TeacherStore(Store(sys.argv[1], flush_rows=50), "0" * 32, {"logits": Codec()}), batches())
"""
    process = run(code, tmp_path)
    assert process.stdout is not None and process.stderr is not None
    for _ in range(30):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert verify(tmp_path).ok
    stored = info(tmp_path).rows
    assert stored >= 250 and stored % 50 == 0
    rows = np.arange(4000, dtype=np.float32).reshape(1000, 4)
    computed: list[int] = []

    def teacher(places: Any) -> dict[str, Any]:
        computed.extend(places.tolist())
        return {"logits": rows[places]}

    with Store(tmp_path, strict=True) as store:
        assert build(outputs(store), [(row_keys(rows), teacher)]).rows == 1000
    assert computed == list(range(stored, 1000))


def test_build_stops_where_nothing_can_be_stored(tmp_path: Path) -> None:
    with Store(tmp_path, size_bound=1, flush_rows=1) as store, pytest.raises(StoreError) as error:
        build(outputs(store), batches([]))
    assert str(error.value) == f"{tmp_path}: it has reached its size bound of 1 bytes"


def test_a_pruned_store_is_the_smallest_and_the_same(tmp_path: Path) -> None:
    draw = np.random.default_rng(2)
    keys = [draw.bytes(16) for _ in range(3000)]
    logits = draw.standard_normal((3000, 50), dtype=np.float32)
    codecs = {"logits": Codec("float16", top_k=16)}
    with Store(tmp_path, strict=True, flush_rows=200) as store:
        before = TeacherStore(store, NAME, codecs).store_rows(keys, {"logits": logits})["logits"].dense()
    size = info(tmp_path).bytes
    copied: list[int] = []
    after = prune(tmp_path, progress=copied.append)
    per_row = 16 + 16 * 4 + 4 + 4 + 8 + 2  # key, top-k, rest, checksum, LMDB's node and its place
    assert (after.rows, sum(copied)) == (3000, 3000)
    assert after.bytes < min(size, 1.1 * 3000 * per_row + 16 * 4096)
    with Store(tmp_path, strict=True) as store:
        assert np.array_equal(TeacherStore(store, NAME, codecs).lookup(keys).rows["logits"].dense(), before)


def test_a_second_process_does_not_prune_at_the_same_time(tmp_path: Path) -> None:
    with Store(tmp_path, strict=True) as store:
        outputs(store).store_rows(row_keys(IMAGES), {"logits": IMAGES})
    code = """
import sys, time
from pathlib import Path
from kdhooks.cache.folder import maintenance
with maintenance(Path(sys.argv[1])):
    print("here", flush=True)
    time.sleep(600)
"""
    process = run(code, tmp_path)
    assert process.stdout is not None and process.stdout.readline() == "here\n"
    try:
        with pytest.raises(StoreError) as error:
            prune(tmp_path)
    finally:
        process.kill()
        process.communicate()
    assert str(error.value) == f"{tmp_path}: another process is writing it anew; try again when that is done"
    assert prune(tmp_path).rows == 40


def test_a_killed_prune_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    draw = np.random.default_rng(3)
    keys, rows = [draw.bytes(16) for _ in range(20_000)], [draw.bytes(60) for _ in range(20_000)]
    with Store(tmp_path, strict=True) as store:
        store.space("space").describe({"fields": []})
        store.space("space").put_many(keys, rows)
    code = """
import sys
from kdhooks.cache.maintenance import prune
while True:
    prune(sys.argv[1], progress=lambda rows: print(rows, flush=True))
"""
    for lines in range(1, 12, 2):  # in the midst of copying, at its end, and in the next round
        process = run(code, tmp_path)
        assert process.stdout is not None
        for _ in range(lines):
            process.stdout.readline()
        process.kill()
        process.communicate()
        found = verify(tmp_path)
        assert found.ok and found.rows == 20_000
    assert prune(tmp_path).rows == 20_000
    assert len(list(tmp_path.glob("rows-*.mdb"))) == 1, "what killed ones left is gone"
    with Store(tmp_path, strict=True) as store:
        assert store.space("space").get_many(keys) == rows
