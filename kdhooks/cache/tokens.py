"""Outputs of token inputs, without their padding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.cache.top_k import TopK
from kdhooks.errors import DataError


@dataclass(frozen=True)
class Tokens:
    """What a teacher said of each unmasked token of a batch.

    Attributes:
        values: [L, ...] with L the sum of the lengths, or a `TopK` of such.
        lengths: [N], how many tokens each row has.

    >>> import numpy as np
    >>> mask = np.array([[1, 1, 0], [1, 1, 1]])
    >>> said = Tokens.cut(np.arange(6.0).reshape(2, 3, 1), mask)
    >>> said.values.ravel().tolist(), said.padded(mask)[..., 0].tolist()
    ([0.0, 1.0, 3.0, 4.0, 5.0], [[0.0, 1.0, 0.0], [3.0, 4.0, 5.0]])
    """

    values: Any
    lengths: NDArray[np.int64]

    @classmethod
    def cut(cls, array: NDArray[Any], mask: NDArray[Any]) -> Tokens:
        """Take the unmasked positions of an array [N, T, ...] by a mask [N, T]."""
        kept = np.asarray(mask) != 0
        if array.shape[:2] != kept.shape:
            raise DataError(f"an output of shape {array.shape} has no tokens for a mask of shape {kept.shape}")
        return cls(array[kept], kept.sum(axis=1).astype(np.int64))

    def padded(self, mask: NDArray[Any]) -> Any:
        """The values at the unmasked positions of a mask [N, T], zeros elsewhere; a `TopK` stays one."""
        kept = np.asarray(mask) != 0
        if not np.array_equal(kept.sum(axis=1), self.lengths):
            raise DataError("the mask has other numbers of tokens than the stored rows")
        if isinstance(self.values, TopK):
            said = self.values
            parts = [_spread(part, kept) for part in (said.values, said.indices, said.rest)]
            return TopK(parts[0], parts[1], parts[2], said.classes)
        return _spread(self.values, kept)


def _spread(values: NDArray[Any], kept: NDArray[np.bool_]) -> NDArray[Any]:
    wide = np.zeros((*kept.shape, *values.shape[1:]), values.dtype)
    wide[kept] = values
    return wide
