"""Fills the store of a configuration before any training: what ``kdhooks cache build`` does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kdhooks.criterion import Step
from kdhooks.errors import UsageError


@dataclass(frozen=True)
class Filled:
    """What filling a store did.

    Attributes:
        rows: how many rows the batches had.
        computed: how many of all teachers' rows were not there before.
        spaces: by teacher, the names of the spaces that its rows are in.
    """

    rows: int
    computed: int
    spaces: dict[str, tuple[str, ...]]


def fill_store(distiller: Any, batches: Iterable[tuple[Any, Any]], progress: Callable[[int], Any]) -> Filled:
    """Run the teachers of a `Distillation` on batches; see `fill_spaces`.

    Args:
        distiller: the `Distillation`, between `on_train_begin` and `on_train_end`.
        batches: inputs as `on_after_compute_loss` gets them, and their `sample_ids` or None.
        progress: called with how many rows were done.

    Raises:
        UsageError: there is no teacher.
        StoreError: the store can't be written, or a teacher's outputs can't be stored.
    """
    if not distiller._run.teachers:
        raise UsageError("there is no teacher whose outputs could be stored: name one")
    return fill_spaces(distiller._run.teachers, batches, progress)


def fill_spaces(
    teachers: Mapping[str, Any], batches: Iterable[tuple[Any, Any]], progress: Callable[[int], Any]
) -> Filled:
    """Run teachers on batches, where their rows are missing, and write the store in the order of its keys.

    Rows that were written stay when it is interrupted, and the next call goes on behind them.

    Args:
        teachers: by name, each a `StoredTeacher` that has begun, all of one store.
        batches: inputs as the teachers get them, and their `sample_ids` or None.
        progress: called with how many rows were done.

    Raises:
        StoreError: the store can't be written, or a teacher's outputs can't be stored.
    """
    from kdhooks.cache import maintenance

    shared = next(iter(teachers.values())).shared
    shared.strict = True
    rows = computed = 0
    for value, ids in batches:
        step = Step(0, value, None, sample_ids=ids, teachers=teachers)
        counts = [teacher.fill(value, step) for teacher in teachers.values()]
        shared.forget()
        rows, computed = rows + counts[0][0], computed + sum(count[1] for count in counts)
        progress(counts[0][0])
    spaces = {name: teacher.spaces for name, teacher in teachers.items()}
    path = shared.store.path
    shared.close()
    maintenance.prune(path)
    return Filled(rows, computed, spaces)
