"""How a batch becomes the calls of student and teacher.

Rules: a model whose forward takes ``temperature`` is called as the Knowledge-Distillation-Toolkit called it, with every
column of the batch and the temperature. Any other gets the inputs alone: the first of a pair, all but the last of a
longer tuple, the fields that its forward names. Labels go to a student whose forward has a place for them, and to a
teacher only where its forward can't do without. ``input_columns`` overrides what the inputs are.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.errors import DataError, ModelError
from kdhooks.loop.batches import Batch, describe, split_batch
from kdhooks.torch.backend import unwrap
from kdhooks.torch.outputs import as_call

LABELS = ("labels", "label", "targets", "target", "y")
"""What the labels are called, among a forward's parameters and a mapping's fields."""

_OURS = ("mask", "sample_ids", "teacher_output", "teacher_features")
TEMPERATURE = "temperature"


@dataclass(frozen=True)
class Forward:
    """What a model's forward takes.

    Attributes:
        model: names the model in errors.
        positional: the names of its positional parameters, without the temperature.
        required: how many of these have no default.
        named: all names by which it takes something.
        any_positional: whether it has ``*args``.
        any_named: whether it has ``**kwargs``.
        softens: whether it takes the temperature.
    """

    model: str
    positional: tuple[str, ...]
    required: int
    named: frozenset[str]
    any_positional: bool
    any_named: bool
    softens: bool

    @classmethod
    def of(cls, module: nn.Module, model: str) -> Forward:
        """Read from the signature of a module's ``forward``, inside of compilation and DataParallel."""
        signature = inspect.signature(unwrap(module).forward).parameters.values()
        kinds = inspect.Parameter
        positional = [
            one
            for one in signature
            if one.kind in (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD) and one.name != TEMPERATURE
        ]
        named = {one.name for one in signature if one.kind in (kinds.POSITIONAL_OR_KEYWORD, kinds.KEYWORD_ONLY)}
        return cls(
            model,
            tuple(one.name for one in positional),
            sum(one.default is kinds.empty for one in positional),
            frozenset(named - {TEMPERATURE}),
            any(one.kind is kinds.VAR_POSITIONAL for one in signature),
            any(one.kind is kinds.VAR_KEYWORD for one in signature),
            TEMPERATURE in named,
        )

    def call(self, columns: Sequence[Any], fields: Mapping[str, Any], temperature: float) -> Any:
        """The form in which the hooks know an input: one value, a tuple, or a mapping of keyword arguments.

        Args:
            columns: positional arguments.
            fields: keyword arguments.
            temperature: handed on to a forward that takes it.
        """
        named = {**fields, TEMPERATURE: temperature} if self.softens else dict(fields)
        if not named:
            return columns[0] if len(columns) == 1 and isinstance(columns[0], Tensor) else tuple(columns)
        if not columns:
            return named
        if len(columns) > len(self.positional) or not set(self.positional[: len(columns)]) <= self.named:
            raise ModelError(
                f"the {self.model} is to be called with {len(columns)} positional arguments beside "
                f"{', '.join(named)}: give the parameters of its forward names"
            )
        return dict(zip(self.positional, columns, strict=False)) | named

    def takes_labels(self, inputs: int, *, unasked: bool) -> bool:
        """Whether labels follow so many positional inputs.

        Args:
            inputs: how many there are.
            unasked: whether a parameter with a default gets them as well, if it is called as labels are.
        """
        if len(self.positional) <= inputs:
            return False
        return self.required > inputs or (unasked and self.positional[inputs] in LABELS)


@dataclass(frozen=True)
class Given:
    """A batch, as the models and the hooks take it.

    Attributes:
        student_input: a tensor, positional arguments as a tuple, or keyword arguments as a mapping.
        teacher_input: the same for the teachers.
        labels: of the batch, or None.
        others: what else of the batch the hooks take: mask, sample_ids, teacher_output, teacher_features.
    """

    student_input: Any
    teacher_input: Any
    labels: Any = None
    others: Mapping[str, Any] = field(default_factory=dict)

    @property
    def call(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The student's positional and keyword arguments."""
        return as_call(self.student_input)

    @property
    def target(self) -> Tensor | None:
        """The labels, where they are numbers of classes."""
        labels = self.labels
        if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.dtype == torch.bool:
            return None
        return labels


class Calls:
    """Makes the calls of each batch.

    Args:
        student: the student's forward.
        teacher: the teacher's; of several teachers, which are called alike, the first one's.
        temperature: for forwards that take it.
        input_columns: the places of the inputs in a tuple, or a name for each of its columns; empty decides by the
            rules above.
    """

    def __init__(
        self,
        student: Forward,
        teacher: Forward,
        temperature: float,
        input_columns: Sequence[int] | Sequence[str] = (),
    ) -> None:
        self.student, self.teacher = student, teacher
        self._temperature, self._columns = temperature, tuple(input_columns)

    def split(self, batch: Any) -> Given:
        """The calls that a batch means.

        Raises:
            DataError: the batch has another form, or a field that no model takes.
            ModelError: a forward can't be called with it.
        """
        if self._columns and not isinstance(batch, Mapping):
            return self._by_columns(batch)
        if isinstance(batch, Tensor):
            return self._positional((batch,), None)
        if isinstance(batch, Mapping):
            return self._fields(batch)
        if {"input", "target"} <= set(getattr(batch, "_fields", ())):
            return self._parts(split_batch(batch))
        if not isinstance(batch, (tuple, list)) or not batch:
            raise DataError(
                f"a batch must be a tensor, a tuple, a list or a mapping, and this one is {describe(batch)}"
            )
        return self._tuple(tuple(batch))

    def _tuple(self, batch: tuple[Any, ...]) -> Given:
        """A tuple: its last column holds the labels, unless it is the only one."""
        if len(batch) == 1:
            return self._positional(batch, None)
        inputs, labels = batch[:-1], batch[-1]
        if len(inputs) == 1 and isinstance(inputs[0], Mapping):
            return self._fields({**inputs[0], "labels": labels})
        if len(inputs) == 1 and isinstance(inputs[0], (list, tuple)):
            inputs = tuple(inputs[0])
        return self._positional(inputs, labels)

    def _by_columns(self, batch: Any) -> Given:
        columns = self._columns
        if not isinstance(batch, (tuple, list)):
            raise DataError(f"input_columns describes the columns of a tuple, and the batch is {describe(batch)}")
        if isinstance(columns[0], str):
            if len(columns) != len(batch):
                raise DataError(f"input_columns names {len(columns)} columns, and the batch has {len(batch)}")
            return self._fields({str(name): value for name, value in zip(columns, batch, strict=True)})
        count = len(batch)
        places = [place % count for place in columns if isinstance(place, int) and -count <= place < count]
        if len(places) < len(columns) or len(set(places)) < len(places):
            raise DataError(f"input_columns is {columns}, and the batch has {count} columns, counted from 0")
        others = [place for place in range(len(batch)) if place not in places]
        return self._positional(tuple(batch[place] for place in places), batch[others[-1]] if others else None)

    def _parts(self, parts: Batch) -> Given:
        found = {name: value for name in _OURS if (value := getattr(parts, name)) is not None}
        if isinstance(parts.input, Mapping):
            return self._fields({**parts.input, **found, "labels": parts.target})
        given = self._positional(parts.input if isinstance(parts.input, tuple) else (parts.input,), parts.target)
        return Given(given.student_input, given.teacher_input, given.labels, found)

    def _positional(self, inputs: tuple[Any, ...], labels: Any) -> Given:
        calls = [
            self._columns_of(forward, inputs, labels, unasked=unasked)
            for forward, unasked in ((self.student, True), (self.teacher, False))
        ]
        return Given(calls[0], calls[1], labels)

    def _columns_of(self, forward: Forward, inputs: tuple[Any, ...], labels: Any, *, unasked: bool) -> Any:
        columns = inputs
        room = len(forward.positional)
        if labels is not None and (
            (forward.softens and (room > len(inputs) or forward.any_positional))
            or forward.takes_labels(len(inputs), unasked=unasked)
        ):
            columns = (*inputs, labels)
        if len(columns) > room and not forward.any_positional:
            raise ModelError(
                f"the {forward.model}'s forward takes {room} positional arguments, and the batch has {len(columns)} "
                "inputs: say with input_columns which of its columns are inputs"
            )
        return forward.call(columns, {}, self._temperature)

    def _fields(self, batch: Mapping[str, Any]) -> Given:
        key = next((name for name in LABELS if name in batch and (name in LABELS[:4] or not self._takes(name))), None)
        ours = {name: batch[name] for name in _OURS if name in batch and not self._takes(name)}
        inputs = {str(name): value for name, value in batch.items() if name not in ours and name != key}
        lost = [name for name in inputs if not self._takes(name) and not self._any_named]
        if lost:
            raise DataError(
                f"the batch has the field {lost[0]!r}, which neither student nor teacher takes: it is {describe(batch)}"
            )
        calls = []
        for forward, unasked in ((self.student, True), (self.teacher, False)):
            fields = {name: one for name, one in inputs.items() if forward.any_named or name in forward.named}
            required = forward.positional[: forward.required]
            if key is not None and key in forward.named and (unasked or key in required):
                fields[key] = batch[key]
            calls.append(forward.call((), fields, self._temperature))
        return Given(calls[0], calls[1], None if key is None else batch[key], ours)

    @property
    def _any_named(self) -> bool:
        return self.student.any_named or self.teacher.any_named

    def _takes(self, name: str) -> bool:
        return name in self.student.named or name in self.teacher.named

    def describe(self, batch: Any) -> str:
        """How the models are called with a batch, in one line for a person."""
        given = self.split(batch)
        parts = [f"the {one.model} with {_called(call)}" for one, call in self._pairs(given)]
        labels = "no labels" if given.labels is None else "labels"
        return f"a batch ({describe(batch)}) has {labels}; called are {' and '.join(parts)}"

    def _pairs(self, given: Given) -> list[tuple[Forward, Any]]:
        return [(self.student, given.student_input), (self.teacher, given.teacher_input)]


def _called(call: Any) -> str:
    if isinstance(call, Mapping):
        return ", ".join(f"{name}=" for name in call)
    return "1 argument" if not isinstance(call, tuple) or len(call) == 1 else f"{len(call)} arguments"
