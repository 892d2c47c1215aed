"""What a batch holds: the model's input, the target, and what is ours.

Rules: a batch is `(inputs, target)`, a mapping with ``labels`` or ``target``, or a longer tuple that
``input_columns`` describes; nothing is guessed beyond that, and every other form is a `DataError` that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdhooks.errors import DataError
from kdhooks.names import did_you_mean

TARGET_FIELDS = ("labels", "target")
_OURS = ("mask", "sample_ids", "teacher_output", "teacher_features")


@dataclass(frozen=True)
class Batch:
    """The parts of a batch.

    Attributes:
        input: as the model takes it: a tensor is one argument, a tuple positional ones, a dict keyword arguments.
        target: class numbers [N], [N, T] or [N, H, W], or whatever the loss takes.
        mask: of the targets' shape, true where a position counts; None where all do.
        sample_ids: one number a row, [N]; None where the loader has none.
        teacher_output: the teacher's output where the loader brings it; None where the teacher is to run.
        teacher_features: the teacher's hidden features by layer, where the loader brings them.
    """

    input: Any
    target: Any
    mask: Any = None
    sample_ids: Any = None
    teacher_output: Any = None
    teacher_features: Any = None


def split_batch(
    batch: Any, *, inputs: Sequence[str] = (), input_columns: tuple[int, ...] | tuple[str, ...] = ()
) -> Batch:
    """Find the parts of a batch.

    Args:
        batch: what the loader served.
        inputs: the fields of a mapping that go to the model; where empty all that are neither the target nor
            ``mask``, ``sample_ids``, ``teacher_output`` or ``teacher_features``. (An ``attention_mask`` is the
            model's.)
        input_columns: what the columns of a tuple are: the places of the model's positional inputs (the last
            other column is the target), or a name for each column, where ``target`` (or ``labels``), ``mask``,
            ``sample_ids`` and ``teacher_output`` are ours and the others are the model's keyword arguments.

    Raises:
        DataError: the batch has another form, or no target.

    >>> split_batch(("x", "y"))
    Batch(input='x', target='y', mask=None, sample_ids=None, teacher_output=None, teacher_features=None)
    >>> split_batch({"input_ids": 1, "attention_mask": 2, "labels": 3}).input
    {'input_ids': 1, 'attention_mask': 2}
    >>> split_batch(("a", "b", "y"), input_columns=(0, 1)).input
    ('a', 'b')
    """
    if isinstance(batch, Mapping):
        if input_columns:
            raise DataError(
                f"input_columns describes the columns of a tuple, and the batch is {describe(batch)}. "
                "Choose fields with model.inputs"
            )
        return _from_fields(batch, inputs)
    if not input_columns and {"input", "target"} <= set(getattr(batch, "_fields", ())):
        return _from_named(batch)
    if not isinstance(batch, (tuple, list)):
        raise DataError(f"a batch must be (inputs, target) or a mapping, and this one is {describe(batch)}")
    if not input_columns:
        return _from_pair(batch, inputs)
    if isinstance(input_columns[0], str):
        return _from_names(batch, [str(name) for name in input_columns])
    return _from_places(batch, [int(place) for place in input_columns])


def _from_named(batch: Any) -> Batch:
    """The parts of a named tuple that calls them as we do, such as `kdhooks.torch.StoredOutputs` serves."""
    ours = {name: getattr(batch, name) for name in _OURS if name in batch._fields}
    return Batch(tuple(batch.input) if isinstance(batch.input, list) else batch.input, batch.target, **ours)


def _from_pair(batch: Sequence[Any], inputs: Sequence[str]) -> Batch:
    if len(batch) != 2:
        cure = "it has no target" if len(batch) < 2 else "say with input_columns which of them are what"
        raise DataError(f"a batch must be (inputs, target), and this one has {_columns(len(batch))}: {cure}")
    given, target = batch
    if isinstance(given, Mapping):
        given = _chosen(given, inputs) if inputs else dict(given)
    return Batch(tuple(given) if isinstance(given, list) else given, target)


def _from_fields(batch: Mapping[str, Any], inputs: Sequence[str]) -> Batch:
    present = [field for field in TARGET_FIELDS if field in batch and field not in inputs]
    if not present:
        raise DataError(
            f"the batch has no target: it must have the field 'labels' or 'target', and it is {describe(batch)}"
        )
    if len(present) > 1:
        raise DataError(f"the batch has both 'labels' and 'target', and one target is meant: it is {describe(batch)}")
    ours = {field: batch[field] for field in _OURS if field in batch and field not in inputs}
    rest = {field: value for field, value in batch.items() if field not in (*present, *ours)}
    chosen = _chosen(batch, inputs) if inputs else rest
    if not chosen:
        raise DataError(f"the batch has no input for the model: it is {describe(batch)}")
    return Batch(chosen, batch[present[0]], **ours)


def _chosen(fields: Mapping[str, Any], inputs: Sequence[str]) -> dict[str, Any]:
    for name in inputs:
        if name not in fields:
            hint = did_you_mean(name, fields, what="Its fields")
            raise DataError(f"model.inputs names the field {name!r}, which the batch has not. {hint}")
    return {name: fields[name] for name in inputs}


def _from_names(batch: Sequence[Any], names: Sequence[str]) -> Batch:
    if len(names) != len(batch):
        raise DataError(
            f"input_columns names {_columns(len(names))} ({', '.join(names)}), and the batch has {len(batch)}"
        )
    if len(set(names)) < len(names):
        raise DataError(f"input_columns names a column twice: {', '.join(names)}")
    return _from_fields(dict(zip(names, batch, strict=True)), ())


def _from_places(batch: Sequence[Any], places: Sequence[int]) -> Batch:
    count = len(batch)
    wrong = [place for place in places if not -count <= place < count]
    if wrong:
        raise DataError(f"input_columns has the column {wrong[0]}, and the batch has {_columns(count)}, counted from 0")
    taken = [place % count for place in places]
    if len(set(taken)) < len(taken):
        raise DataError(f"input_columns has a column twice: {', '.join(map(str, places))}")
    others = [place for place in range(count) if place not in taken]
    if not others:
        raise DataError(f"input_columns gives all {_columns(count)} of the batch to the model, so none is the target")
    given = tuple(batch[place] for place in taken)
    return Batch(given[0] if len(given) == 1 else given, batch[others[-1]])


def _columns(count: int) -> str:
    return f"{count} column" if count == 1 else f"{count} columns"


def describe(value: Any) -> str:
    """What a value is, in a few words for an error message; what has a shape and a dtype is a tensor.

    >>> describe({"x": 1}), describe([1, "a"])
    ("a mapping with the keys 'x'", 'a list of int, str')
    """
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(repr, value)) or '(none)'}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {', '.join(type(item).__name__ for item in value) or 'nothing'}"
    return f"a {type(value).__name__}"
