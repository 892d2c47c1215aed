"""A batch of a given size, cut from what there is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from kdhooks.errors import UsageError

Join = Callable[[list[Any]], Any]
"""Tensors behind each other along the first axis, as one."""


def rows_in(inputs: Any) -> int:
    """How many rows inputs have: the length of the first axis of the first tensor that has one; else 1.

    What has a shape and a dtype is a tensor.
    """
    return next((int(tensor.shape[0]) for tensor in _tensors(inputs) if len(tensor.shape)), 1)


def batch_of(inputs: Any, size: int, join: Join) -> Any:
    """Inputs with this many rows: the first ones, and where there are fewer these again and again.

    Tensors are cut whose first axis is as long as that of the first of them. All else stays as it is: a scalar, a
    table that is the same for all rows, a flag.

    Args:
        inputs: as the model takes them, a nest of tuples, lists and mappings.
        size: rows of the batch.
        join: puts tensors behind each other.

    Raises:
        UsageError: the inputs have no rows.

    >>> import numpy as np
    >>> cut = batch_of({"x": np.arange(6).reshape(3, 2), "scale": np.float32(2.0)}, 4, np.concatenate)
    >>> cut["x"].tolist(), float(cut["scale"])
    ([[0, 1], [2, 3], [4, 5], [0, 1]], 2.0)
    """
    there = rows_in(inputs)
    if there == 0:
        raise UsageError("the inputs that a model is measured on have no rows: their first axis has the length 0")

    def cut(tensor: Any) -> Any:
        if _length(tensor) != there:
            return tensor
        return (tensor if there >= size else join([tensor] * -(-size // there)))[:size]

    return inputs if there == size else map_arrays(cut, inputs)


def _length(tensor: Any) -> int | None:
    return int(tensor.shape[0]) if len(tensor.shape) else None


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype")


def _tensors(value: Any) -> Iterator[Any]:
    if _is_tensor(value):
        yield value
    elif isinstance(value, (Mapping, tuple, list)):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(item)


def map_arrays(function: Callable[[Any], Any], value: Any) -> Any:
    """The same nest of tuples, lists and mappings with a function applied to all that has a shape and a dtype."""
    if _is_tensor(value):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_arrays(function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_arrays(function, item) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_arrays(function, item) for item in value)
    return value
