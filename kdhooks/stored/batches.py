"""Rows of a batch, apart from any framework: how many there are, some of them, and where its tokens are.

A tensor is what has a shape and a dtype. What has as many entries as there are rows is of the rows; a tensor with
one entry, a number or a text holds for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.errors import DataError
from kdhooks.nests import arrays_in, is_array, map_leaves

MASK = "attention_mask"

Tensor = Any


@dataclass(frozen=True)
class Tokens:
    """Where the tokens of a batch are.

    Attributes:
        kept: [N, T], true where a position is no padding.
        mask: the tensor that says so, [N, T]; None where all positions count.
    """

    kept: NDArray[np.bool_]
    mask: Tensor = None

    @property
    def padded(self) -> bool:
        """Whether some position is padding."""
        return self.mask is not None and not bool(self.kept.all())


def rows_in(value: Any) -> int:
    """How many rows a batch has.

    Raises:
        DataError: there is no tensor in it.

    >>> rows_in({"input_ids": np.zeros((4, 7)), "position_ids": np.zeros((1, 7))})
    4
    """
    counts = [int(tensor.shape[0]) for tensor in arrays_in(value)]
    if not counts:
        raise DataError("the teacher's input holds no tensor, so the cache can't tell its rows")
    return max(counts)


def picked(value: Any, rows: int, take: Callable[[Tensor], Tensor]) -> Any:
    """The same nest with some of its rows.

    Args:
        value: a batch.
        rows: how many it has.
        take: picks the rows of one tensor.

    >>> picked((np.arange(3), np.zeros((1, 2)), True), 3, lambda array: array[[2, 0]])[0].tolist()
    [2, 0]
    """

    def cut(tensor: Tensor) -> Tensor:
        return take(tensor) if len(tensor.shape) and int(tensor.shape[0]) == rows else tensor

    return map_leaves(is_array, cut, value)


def tokens_in(value: Any, array: Callable[[Tensor], NDArray[Any]]) -> Tokens | None:
    """Where the tokens of a batch are; None where it has none, or those of an encoder beside those of a decoder.

    Args:
        value: a batch.
        array: a tensor as an array on the host.

    >>> tokens_in({"input_ids": np.ones((1, 3), int), "attention_mask": np.array([[1, 1, 0]])}, np.asarray).padded
    True
    """
    if _has_decoder(value):
        return None
    mask = value.get(MASK) if isinstance(value, Mapping) else None
    if mask is not None and len(getattr(mask, "shape", ())) == 2:
        said = np.asarray(array(mask))
        kept: NDArray[np.bool_] = said != 0
        if np.array_equal(kept, said):  # else it is added to scores, or weighs
            return Tokens(kept, mask)
    numbers = [one for one in arrays_in(value) if len(one.shape) == 2 and "int" in str(one.dtype)]
    if not numbers:
        return None
    return Tokens(np.ones((int(numbers[0].shape[0]), int(numbers[0].shape[1])), np.bool_))


def keeps_padding(value: Any, tokens: Tokens | None, shapes: Mapping[str, tuple[tuple[int, ...], bool]]) -> bool:
    """Whether some output of a padded batch has axes of tokens that are stored with their padding.

    Attention maps [N, heads, T, T] are such: their rows belong to one length and one side of padding.

    Args:
        value: a batch.
        tokens: of it.
        shapes: of outputs, by name: the shape of a row, and whether it is stored by tokens.
    """
    if not _has_decoder(value) and (tokens is None or tokens.mask is None):
        return False
    return any(len(shape) > 1 and not of_tokens for shape, of_tokens in shapes.values())


def _has_decoder(value: Any) -> bool:
    return isinstance(value, Mapping) and any(str(name).startswith("decoder_") for name in value)
