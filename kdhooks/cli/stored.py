"""What ``kdhooks cache`` does: fills a store of teacher outputs, looks at it, checks it, writes it anew."""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kdhooks.cli import actions


def build(arguments: Namespace) -> int:
    """Fill the store of a configuration from its training data."""
    from tqdm import tqdm

    from kdhooks.stored.building import fill_store

    with actions.messages():
        distiller = actions.distiller_of(arguments)
        settings = distiller.conf.settings.distillation
        if settings.cache is None:
            raise distiller.conf.problem("distillation", "has no cache to fill", "Write cache: {path: DIR} below it.")
        loader = settings.train.dataloader
        epochs = arguments.epochs or (None if loader is None else loader.replays) or 1
        total, batches = distiller.backend.training_inputs(distiller, epochs)
        with distiller, tqdm(total=total, unit=" rows", desc="stored", disable=None) as bar:
            filled = fill_store(distiller, batches, bar.update)
    print(f"{filled.rows:,} rows, of which {filled.computed:,} were computed and the others there already")
    for name, spaces in filled.spaces.items():
        print(f"{name}: {' '.join(spaces)}")
    return info(Namespace(path=settings.cache.path))


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
    print(f"{before.rows:,} rows in {_size(before.bytes)} became {after.rows:,} rows in {_size(after.bytes)}")
    return 0


def _print(found: Any) -> None:
    from kdhooks.check.report import table
    from kdhooks.stored.choices import CHOICE
    from kdhooks.stored.spaces import teachers_in

    teachers = teachers_in(found.spaces)
    print(f"{found.path}: {_count(found.rows, 'row')} of {_count(len(teachers), 'teacher')}, {_size(found.bytes)}")
    choices, unread = [], []
    for space in found.spaces:
        record = space.record or {}
        about = record.get("about", {})
        if CHOICE in record:
            choices.append(f"{about.get('teacher')} on {about.get('on')} runs in {_choice(record[CHOICE])}")
        elif space not in teachers:
            unread.append(f"{space.name}: {_count(space.rows, 'row')}, without a readable record")
    if teachers:
        print(f"\n{table([line for space in teachers for line in _lines(space, max(one.rows for one in teachers))])}")
    for told in ([f"{choice}, as auto chose" for choice in choices], unread):
        if told:
            print("\n" + "\n".join(told))


def _lines(space: Any, most: int) -> list[dict[str, str]]:
    """A teacher's lines of the table: one for each output of its rows.

    Args:
        space: the teacher's.
        most: rows that any teacher has, which is how wide their column is.
    """
    about = space.record.get("about", {})
    outputs = [_field(field) for field in space.record["fields"]]
    first = {
        "name": space.name,
        "teacher": ", ".join(str(about[key]) for key in ("teacher", "precision") if key in about) or "-",
        "rows": f"{space.rows:,}".rjust(len(f"{most:,}")),
        "size": _size(space.bytes),
        "first stored": _age(space.created),
        "a row holds": outputs[0],
    }
    return [first, *({**dict.fromkeys(first, ""), "a row holds": output} for output in outputs[1:])]


def _field(field: Any) -> str:
    """One output of a row."""
    codec, shape = field["codec"], list(field["shape"])
    kept = f", the {codec['top_k']} largest" if codec["top_k"] else ""
    pooled = f", averaged to {list(codec['pool'])}" if codec["pool"] else ""
    return f"{field['name']}: {codec['dtype']} {shape}{' a token' if field['tokens'] else ''}{kept}{pooled}"


def _choice(said: Any) -> str:
    from kdhooks.errors import CheckpointError
    from kdhooks.speed import Choice

    try:
        return str(Choice.from_dict(said))
    except CheckpointError:
        return "a way of a newer kdhooks"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _size(count: int) -> str:
    """Bytes in a unit that a person reads."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count} bytes"


def _age(moment: float | None) -> str:
    """How long ago a moment was, in the largest unit that fits."""
    if moment is None:
        return "at an unknown time"
    seconds = max(0, int(time.time() - moment))
    for unit, length in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= length:
            return f"{_count(seconds // length, unit)} ago"
    return "just now"


@contextmanager
def _bar(path: Any, unit: str) -> Iterator[Any]:
    from tqdm import tqdm

    from kdhooks.cache import maintenance

    with tqdm(total=maintenance.info(path).rows, unit=" rows", desc=unit, disable=None) as bar:  # none in a pipe
        yield bar.update
