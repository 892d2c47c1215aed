"""What ``kdhooks cache`` does: looks at a store of teacher outputs, checks it, writes it anew."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def info(arguments: Namespace) -> int:
    """Print what is in a store."""
    from kdhooks.cache import maintenance

    _print(maintenance.info(arguments.path))
    return 0


def verify(arguments: Namespace) -> int:
    """Check every row; 2 where something is wrong."""
    from kdhooks.cache import maintenance

    with _bar(arguments.path, "verified") as progress:
        found = maintenance.verify(arguments.path, progress)
    for line in found.damage:
        print(f"damaged: {line}")
    for name, count in found.bad.items():
        print(f"{name}: {count:,} bad rows; they are never served, and `kdhooks cache prune` removes them")
    print(f"{found.rows:,} rows checked: {'all is well' if found.ok else 'not all is well'}")
    return 0 if found.ok else 2


def prune(arguments: Namespace) -> int:
    """Write a store anew, in key order and without bad rows."""
    from kdhooks.cache import maintenance

    before = maintenance.info(arguments.path)
    with _bar(arguments.path, "copied") as progress:
        after = maintenance.prune(
            arguments.path, keep=arguments.keep or None, older_than_days=arguments.older_than, progress=progress
        )
    print(f"{before.rows:,} rows in {before.bytes:,} bytes became {after.rows:,} rows in {after.bytes:,} bytes")
    return 0


def _print(found: Any) -> None:
    print(f"{found.path}: {found.rows:,} rows of {len(found.spaces)} teachers, {found.bytes:,} bytes")
    for space in found.spaces:
        fields = [] if space.record is None else space.record.get("fields", [])
        kinds = [f"{field['name']} {field['codec']['dtype']} {tuple(field['shape'])}" for field in fields]
        about = {} if space.record is None else space.record.get("about", {})
        kinds += [f"{key}: {value}" for key, value in about.items()]
        print(f"  {space.name}: {space.rows:,} rows; {'; '.join(kinds) or 'without a readable record'}")


@contextmanager
def _bar(path: Any, unit: str) -> Iterator[Any]:
    from tqdm import tqdm

    from kdhooks.cache import maintenance

    with tqdm(total=maintenance.info(path).rows, unit=" rows", desc=unit, disable=None) as bar:  # none in a pipe
        yield bar.update
