"""What stored teacher outputs cost: a warm batch, and a store of the size of ImageNet.

Reads are compared with LMDB's own (`get` of the same random keys, one read transaction a batch; beside it the one
call `getmulti`) on a copy of the same file, in turn, the order swapped from round to round. Ours give the same rows
after a look at their checksums: as bytes one by one, as one table, as decoded outputs. Rows are top-16 logits of 1,000
classes.

Run: python -m benchmarks.cache [--rows 1280000] [--folder DIR] [--json]
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import numpy as np

from benchmarks.machine import processor
from kdhooks.cache import Codec, Store, TeacherStore, row_keys
from kdhooks.cache.environment import rows_key
from kdhooks.cache.maintenance import prune, verify

NAME = "0" * 32
BATCH, ROUND = 128, 100


def seconds(function: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def warm_batch(folder: Path, repeats: int = 500) -> dict[str, Any]:
    """Hashing and reading 128 CIFAR rows with 100 float16 logits."""
    draw = np.random.default_rng(0)
    # Several batches in turn, so that the processor's cache does not hold the images.
    batches = [draw.standard_normal((BATCH, 3, 32, 32), dtype=np.float32) for _ in range(40)]
    with Store(folder) as store:
        outputs = TeacherStore(store, NAME, {"logits": Codec("float16")})
        for images in batches:
            outputs.store_rows(row_keys(images), {"logits": draw.standard_normal((BATCH, 100), dtype=np.float32)})
        store.flush()
        times = [seconds(lambda at=at: outputs.lookup(row_keys(batches[at % 40])).rows) for at in range(repeats)]
        assert outputs.space.misses == 0
    low, middle, high = statistics.quantiles(times, n=4)
    return {"median_ms": middle * 1e3, "quartiles_ms": [low * 1e3, high * 1e3], "least_ms": min(times) * 1e3}


def fill(store: Store, rows: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Put random logits under random keys, in random order; returns the keys, [rows, 16]."""
    draw = np.random.default_rng(1)
    keys = draw.integers(0, 256, (rows, 16), dtype=np.uint8)
    outputs = TeacherStore(store, NAME, {"logits": Codec("float16", top_k=16)})
    for begin in range(0, rows, 1024):
        part = [key.tobytes() for key in keys[begin : begin + 1024]]
        outputs.encode(part, {"logits": draw.standard_normal((len(part), 1000), dtype=np.float32)})
    store.flush()
    return keys


def size_of(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.iterdir())


def imagenet(folder: Path, rows: int, rounds: int) -> dict[str, Any]:
    """Size on disk, and random reads against LMDB's."""
    with Store(folder, flush_rows=16_384) as store:
        begin = time.perf_counter()
        keys = fill(store, rows)
        filled = time.perf_counter() - begin
    before = size_of(folder)
    pruned = seconds(lambda: prune(folder))
    begin = time.perf_counter()
    found = verify(folder)
    verified = time.perf_counter() - begin
    assert found.ok and found.rows == rows, found
    result = {
        "rows": rows,
        "bytes_as_filled": before,
        "bytes": size_of(folder),
        "fill_s": filled,
        "prune_s": pruned,
        "verify_s": verified,
    }
    return {**result, **reads(folder, keys, rounds)}


def reads(folder: Path, keys: np.ndarray[Any, np.dtype[np.uint8]], rounds: int) -> dict[str, Any]:
    """Rows a second of LMDB, of `Space.get_many`, and of a lookup with decoded outputs."""
    copy = folder.with_name("copy.mdb")
    shutil.copy(next(folder.glob("rows-*.mdb")), copy)
    with Store(folder) as store, lmdb.open(str(copy), subdir=False, max_dbs=2, lock=False, readonly=True) as raw:
        table = raw.open_db(rows_key(NAME), create=False)
        outputs = TeacherStore(store, NAME, {"logits": Codec("float16", top_k=16)})

        def theirs(batch: list[bytes]) -> None:
            with raw.begin(db=table) as transaction:
                get = transaction.get
                assert None not in [get(key) for key in batch]

        def at_once(batch: list[bytes]) -> None:
            with raw.begin(db=table) as transaction, transaction.cursor() as cursor:
                assert len(cursor.getmulti(batch)) == len(batch)

        def ours(batch: list[bytes]) -> None:
            assert None not in outputs.space.get_many(batch)

        def unsplit(batch: list[bytes]) -> None:
            assert isinstance(outputs.space.get_table(batch), np.ndarray)

        def decoded(batch: list[bytes]) -> None:
            assert len(outputs.lookup(batch).rows["logits"].values) == len(batch)

        sides = {"lmdb": theirs, "getmulti": at_once, "get_many": ours, "get_table": unsplit, "lookup": decoded}
        times: dict[str, list[float]] = {name: [] for name in sides}
        for number, batches in enumerate(drawn(keys, rounds + 2)):
            order = list(sides) if number % 2 else list(sides)[::-1]
            took = {name: seconds(partial(each, sides[name], batches)) for name in order}
            if number >= 2:  # the first rounds bring the files into memory
                for name, value in took.items():
                    times[name].append(value)
    copy.unlink()
    count = BATCH * ROUND
    result: dict[str, Any] = {f"{name}_rows_per_s": count / statistics.median(times[name]) for name in sides}
    for name in ("getmulti", "get_many", "get_table", "lookup"):
        ratios = [mine / own for mine, own in zip(times["lmdb"], times[name], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        result[f"{name}_rate_over_lmdb"] = middle
        result[f"{name}_quartiles"] = [low, high]
    return result


def each(side: Callable[[list[bytes]], None], batches: list[list[bytes]]) -> None:
    for batch in batches:
        side(batch)


def drawn(keys: np.ndarray[Any, np.dtype[np.uint8]], rounds: int) -> Iterator[list[list[bytes]]]:
    """Batches of random keys, other ones in every round."""
    draw = np.random.default_rng(2)
    for _ in range(rounds):
        places = draw.integers(0, len(keys), (ROUND, BATCH))
        yield [[key.tobytes() for key in keys[row]] for row in places]


def markdown(results: dict[str, Any]) -> str:
    """The figures as tables."""
    warm, large = results["warm_batch"], results["imagenet"]
    low, high = warm["quartiles_ms"]
    lines = [
        "| case | measured | quartiles | at most |",
        "| --- | --- | --- | --- |",
        f"| hashing and reading a warm batch of {BATCH} CIFAR rows, 100 logits | {warm['median_ms']:.3f} ms "
        f"| {low:.3f} to {high:.3f} | 1 ms |",
        f"| {large['rows']:,} rows, top-16 of 1,000, in key order | {large['bytes'] / 1e6:.1f} MB | – | 150 MB |",
        f"| the same as filled, in random order | {large['bytes_as_filled'] / 1e6:.1f} MB | – | – |",
        "",
        "| random reads | rows a second | rate over LMDB's own | quartiles | at least |",
        "| --- | --- | --- | --- | --- |",
        f"| LMDB's `get` | {large['lmdb_rows_per_s']:,.0f} | 1 | – | – |",
    ]
    for name, title, aim in (
        ("getmulti", "LMDB's `getmulti`", "–"),
        ("get_table", "rows with checksums, as one table", "0.8"),
        ("get_many", "rows with checksums, one by one", "–"),
        ("lookup", "decoded outputs", "–"),
    ):
        low, high = large[f"{name}_quartiles"]
        rate = large[f"{name}_rate_over_lmdb"]
        lines.append(f"| {title} | {large[f'{name}_rows_per_s']:,.0f} | {rate:.2f} | {low:.2f} to {high:.2f} | {aim} |")
    took = (
        f"filled in {large['fill_s']:.0f} s, pruned in {large['prune_s']:.1f} s, verified in {large['verify_s']:.1f} s"
    )
    return "\n".join([*lines, "", f"{processor()}; {took}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_280_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--folder", type=Path, default=None, help="where the stores are made (a temporary folder)")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        results = {
            "warm_batch": warm_batch(folder / "warm"),
            "imagenet": imagenet(folder / "large", arguments.rows, arguments.rounds),
        }
    print(json.dumps(results, indent=2) if arguments.json else markdown(results))


if __name__ == "__main__":
    main()
