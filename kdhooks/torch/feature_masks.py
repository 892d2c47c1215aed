"""Which positions of hidden features count, on tensors; the rules are `kdhooks.pairs.masks`'."""

from __future__ import annotations

import torch
from torch import Tensor

from kdhooks.pairs.masks import MaskRules

MASKS = MaskRules(channels_last=False, boolean=lambda mask: mask.to(torch.bool))
"""The PyTorch backend's."""


def blanked(feature: Tensor, mask: Tensor) -> Tensor:
    """A feature with zeros at the positions that don't count."""
    counted = mask.to(feature.device, torch.bool)
    if counted.ndim == feature.ndim:
        return feature.where(counted, 0.0)
    return feature.where(counted.unsqueeze(1 if feature.ndim >= 4 else -1), 0.0)
