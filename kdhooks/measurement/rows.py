"""A batch of a given size, cut from what there is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdhooks.errors import UsageError
from kdhooks.nests import arrays_in, is_array, map_leaves

Join = Callable[[list[Any]], Any]
"""Tensors behind each other along the first axis, as one."""


def rows_in(inputs: Any) -> int:
    """How many rows inputs have: the length of the first axis of the first tensor that has one; else 1.

    What has a shape and a dtype is a tensor.
    """
    return next((int(tensor.shape[0]) for tensor in arrays_in(inputs)), 1)


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

    return inputs if there == size else map_leaves(is_array, cut, inputs)


def shorter(inputs: Any, length: int) -> Any:
    """Inputs whose second axis is half as long where it has this length.

    >>> import numpy as np
    >>> shorter({"ids": np.zeros((2, 7)), "size": np.zeros((2, 3))}, 7)["ids"].shape
    (2, 3)
    """

    def cut(tensor: Any) -> Any:
        return tensor[:, : max(1, length // 2)] if len(tensor.shape) > 1 and tensor.shape[1] == length else tensor

    return map_leaves(is_array, cut, inputs)


def _length(tensor: Any) -> int | None:
    return int(tensor.shape[0]) if len(tensor.shape) else None
