"""Which fields of a batch go to the models: student and teacher get the same input.

transformers' own `Trainer` drops the columns that its model's ``forward`` does not take. Here two models look at a
batch, and one of them is not built yet when the data are: so what passes is decided when a batch is made.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from kdhooks.criterion import teachers_by_name
from kdhooks.messages import logger

KEPT = ("label", "label_ids", "labels", "target", "mask", "sample_ids", "teacher_output", "teacher_features")
"""Fields that are not the models': labels under all names that collators know, and what the built-in loop takes."""


class CommonFields:
    """Keeps the fields that all models take, and labels.

    Args:
        teacher: one model, or several as `kdhooks.Distillation` takes them.
        labels: further names of labels.
    """

    def __init__(self, teacher: Any, labels: Iterable[str] = ()) -> None:
        self._teachers = [_accepted(one) for one in teachers_by_name(teacher).values()]
        self._student: frozenset[str] | None = None
        self._labels = frozenset((*KEPT, *labels))
        self._told: set[str] = set()

    def meet(self, student: Any) -> None:
        """A candidate was built; from now on its fields count."""
        self._student = _accepted(student)

    def __call__(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The fields that pass."""
        kept = {name: value for name, value in fields.items() if self._passes(str(name))}
        for name in fields:
            if name not in kept and name not in self._told and all(_takes(one, name) for one in self._teachers):
                self._told.add(name)
                logger.warning(
                    "the student's forward takes no %r, so the teacher, whose input is the student's, goes without it",
                    name,
                )
        return kept

    def _passes(self, name: str) -> bool:
        return name in self._labels or all(_takes(one, name) for one in (*self._teachers, self._student))


class FilteredBatches:
    """A user's loader of which only some fields of mappings pass; all else about it is the loader's own.

    Args:
        loader: of batches.
        fields: what passes.
    """

    def __init__(self, loader: Any, fields: CommonFields) -> None:
        self._loader, self._fields = loader, fields

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            yield self._fields(batch) if isinstance(batch, Mapping) else batch

    def __len__(self) -> int:
        return len(self._loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_loader":
            raise AttributeError(name)
        return getattr(self._loader, name)


def _accepted(model: Any) -> frozenset[str] | None:
    """The arguments that a model's forward names, or None where it names none and takes any."""
    parameters = inspect.signature(model.forward).parameters.values()
    named = [one.name for one in parameters if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    anything = any(one.kind is one.VAR_KEYWORD for one in parameters)
    return None if anything and not named else frozenset(named)


def _takes(accepted: frozenset[str] | None, name: str) -> bool:
    return accepted is None or name in accepted
