"""Balances a term against the loop's own loss by the norms of their gradients.

Rules: the factor is a constant of the step and stays on the device, so nothing waits for it; no parameter's
gradient is computed or reduced here, only that of what the student gave: its logits, or a tapped layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdhooks.errors import ModelError

_SCALE = 1024.0  # of both gradients, so that small ones don't vanish in half precision; cancels in their ratio


def gradient_ratio(student_loss: Tensor, value: Tensor, anchors: Sequence[Any], what: str) -> Tensor:
    """||d student_loss / d anchors|| / ||d value / d anchors||, the factor that makes both gradients equally long.

    Args:
        student_loss: the loop's own loss, a scalar.
        value: a term, a scalar.
        anchors: tensors, or gradient edges of tensors, that both were computed from.
        what: names the anchors in errors.

    Returns:
        A scalar without a graph; 0 where the term has no gradient, and 1 where a gradient is not finite.

    Raises:
        ModelError: a loss was not computed from the anchors.
    """
    own = _norm(student_loss, anchors, f"the loop's own loss was not computed from {what}")
    other = _norm(value, anchors, f"the term was not computed from {what}")
    ratio = torch.where(other > 0, own / other.clamp(min=torch.finfo(other.dtype).tiny), torch.zeros_like(own))
    return torch.where(torch.isfinite(own) & torch.isfinite(other), ratio, torch.ones_like(ratio)).detach()


def _norm(loss: Tensor, anchors: Sequence[Any], fault: str) -> Tensor:
    found: Sequence[Tensor | None] = ()
    if loss.requires_grad and anchors:
        scale = torch.full_like(loss, _SCALE)
        found = torch.autograd.grad(loss, list(anchors), scale, retain_graph=True, allow_unused=True)
    norms: list[Tensor] = [torch.linalg.vector_norm(one, dtype=_wide(one)) for one in found if one is not None]
    if not norms:
        raise ModelError(f"balance: {fault}, so their gradients can't be compared")
    whole: Tensor = norms[0] if len(norms) == 1 else torch.linalg.vector_norm(torch.stack(norms))
    return whole


def _wide(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
