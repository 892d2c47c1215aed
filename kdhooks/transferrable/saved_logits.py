"""A teacher's saved logits in place of the teacher: found by the content of an input, in any batch and any order."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from kdhooks.errors import DataError
from kdhooks.nests import arrays_in
from kdhooks.stored.batches import tokens_in
from kdhooks.stored.looks import LOGITS
from kdhooks.stored.spaces import StoredSpace
from kdhooks.torch.fingerprints import float_array, tensor_beside
from kdhooks.torch.stored_teacher import content_keys, dense_logits


class SavedLogits:
    """What one teacher said, read from a store that it has filled; opened when the first input comes.

    Args:
        path: the store's folder.

    Example:
        >>> import tempfile, torch
        >>> from kdhooks.torch import store_outputs
        >>> teacher, x = torch.nn.Linear(4, 3), torch.randn(8, 4)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     filled = store_outputs(teacher, [x], folder)
        ...     torch.allclose(SavedLogits(folder)(x[2:5]), teacher(x[2:5]), atol=1e-6)
        True
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._space: StoredSpace | None = None

    def __call__(self, value: Any) -> Tensor:
        """The logits [N, ..., C] of a batch of inputs, float32, on the inputs' device.

        Raises:
            StoreError: there is no store.
            DataError: one of the inputs is not in it, or no logits are.
        """
        from kdhooks.cache import Tokens, TopK

        if self._space is None:
            self._space = StoredSpace(self.path)
        keys = content_keys(value)
        found = self._space.read(keys, range(len(keys)))
        if LOGITS not in found:
            raise DataError(f"the store {self.path} holds no logits, only {', '.join(found)}")
        held, beside = found[LOGITS], next(arrays_in(value))
        if isinstance(held, Tokens):
            tokens = tokens_in(value, float_array)
            held = held.values if tokens is None else held.padded(tokens.kept)
        return dense_logits(held, beside) if isinstance(held, TopK) else tensor_beside(np.asarray(held), beside)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_space": None}
