"""The cross-entropy of the target's labelled rows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdhooks.errors import ModelError


def labelled_loss(logits: Tensor, labels: Any, ignore_index: int) -> Tensor:
    """The mean cross-entropy of rows with a label; 0 where none has one.

    Args:
        logits: [M, C], [M, C, ...] or [M, T, C].
        labels: class numbers of the same shape without the class axis.
        ignore_index: the label of rows, tokens or pixels without one.

    Raises:
        ModelError: shapes that don't fit.
    """
    shape = list(labels.shape) if isinstance(labels, Tensor) else None
    if shape == list(logits.shape[:-1]):
        logits = logits.movedim(-1, 1)
    elif shape is None or shape != [*logits.shape[:1], *logits.shape[2:]]:
        got = f"of shape {shape}" if shape is not None else f"a {type(labels).__name__}"
        raise ModelError(f"target_labels must be class numbers for logits of shape {list(logits.shape)}, and are {got}")
    wide = torch.promote_types(logits.dtype, torch.float32)
    total = torch.nn.functional.cross_entropy(logits.to(wide), labels, ignore_index=ignore_index, reduction="sum")
    found: Tensor = total / (labels != ignore_index).sum().clamp(min=1)
    return found
