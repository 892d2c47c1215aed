"""Whether the built-in loop's optimizer updates all weights in one pass over memory, torch's ``fused``.

Rules: only where the speed is left to us (``precision: auto``), on a CPU, and the user has said nothing about it; the
update is the same up to rounding. torch's fused optimizers on the CPU walk through memory without looking at strides,
so every weight must be dense: its gradient and its state have its strides then.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.config.model import TrainSettings

_SAYS = ("fused", "foreach", "differentiable", "capturable")
"""Options by which a user has said how the weights are updated."""


def left_to_us(train: TrainSettings, student: nn.Module, device: torch.device) -> bool:
    """Whether an optimizer may be fused that the configuration names.

    Args:
        train: what the configuration says.
        student: whose weights are updated.
        device: where they are.
    """
    asked = train.precision == "auto" and train.ipex is False  # the extension has steps of its own
    sparse = any(getattr(module, "sparse", False) is True for module in student.modules())
    return asked and device.type == "cpu" and not sparse


def fusing(kind: type[torch.optim.Optimizer], options: Mapping[str, Any], trained: Iterable[Tensor]) -> bool:
    """Whether an optimizer of this class, with these options of the user's, can be fused over these weights."""
    known = inspect.signature(kind).parameters
    return "fused" in known and not any(name in options for name in _SAYS) and all(map(_is_plain, trained))


def _is_plain(weight: Tensor) -> bool:
    if type(weight.data) is not Tensor or not weight.is_floating_point() or weight.layout != torch.strided:
        return False
    return torch.empty_like(weight, device="meta").stride() == weight.stride()  # which keeps dense strides only
