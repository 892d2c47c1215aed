"""Layer mappings on real models: the tensors of PyTorch layers that mappings mean; the rules are `kdhooks.pairs`'."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdhooks.config.mappings import LayerTap
from kdhooks.pairs import selection
from kdhooks.pairs.parsing import parse_layer_groups, parse_layer_mappings
from kdhooks.pairs.selection import Values, found
from kdhooks.torch.outputs import describe
from kdhooks.torch.taps import Slot, Taps

__all__ = ["VALUES", "found", "parse_layer_groups", "parse_layer_mappings", "select", "tensors_of"]


def tensors_of(tap: LayerTap, taps: Taps, calls: str) -> list[Tensor]:
    """The tensors of a layer at this step, one for each call that counts.

    Args:
        tap: the layer and what to take of it.
        taps: where it was captured.
        calls: ``last``, ``first``, ``all`` or ``mean`` of its calls.

    Raises:
        LayerError: it did not run, or the selector doesn't fit what it returned.
    """
    return selection.tensors_of(tap, taps, calls, VALUES)


def select(value: Any, tap: LayerTap, taps: Taps) -> Tensor:
    """The tensor that a tap means in what a layer returned.

    Raises:
        LayerError: there is none.
    """
    chosen: Tensor = selection.select(value, tap, taps, VALUES)
    return chosen


def _silence(taps: Taps, slot: Slot) -> tuple[str, str]:
    if slot.unseen:
        return (
            " where gradients could be seen: it runs inside of a reentrant checkpoint",
            "Checkpoint with use_reentrant=False, or map the layer around it.",
        )
    advice = "Map a layer that every forward calls"
    if taps.role == "student":
        advice += "; the student's forward must come before the loss, with gradients, and not in a function that"
        advice += " torch.compile had traced before"
    return "", f"{advice}."


VALUES = Values(
    as_tensor=lambda value: value if isinstance(value, Tensor) else None,
    is_tensor=lambda value: isinstance(value, Tensor),
    describe=describe,
    mean=lambda tensors: torch.stack(tensors).mean(0),
    silence=_silence,
)
"""What this backend knows of what layers return."""
