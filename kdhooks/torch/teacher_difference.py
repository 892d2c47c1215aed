"""How far a teacher in low precision is from itself in full precision, on the first batch, in one line.

It costs one forward in full precision, and nothing at later steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kdhooks.errors import ModelError
from kdhooks.torch.outputs import logits_of, map_tensors
from kdhooks.torch.teacher_taps import TeacherTaps


@dataclass(frozen=True)
class Seen:
    """What one forward gave.

    Attributes:
        output: of the model, or None where its forward was ended.
        features: what was captured, by layer; ``layer:input`` is a layer's input.
    """

    output: Any
    features: dict[str, list[Tensor]]

    def tensors(self) -> list[Tensor]:
        """All of them, the features first."""
        return [*(one for several in self.features.values() for one in several), *_tensors(self.output)]


def seen(output: Any, taps: TeacherTaps | None) -> Seen:
    """An output, and what was captured on the way to it."""
    slots = {} if taps is None else taps.slots
    return Seen(
        output,
        {name + (":input" if of_input else ""): _tensors(slots[name, of_input].calls) for name, of_input in slots},
    )


def agree(one: Seen, other: Seen, *, bitwise: bool = False, within: float = 0.05, dtypes: bool = True) -> bool:
    """Whether two forwards gave the same, in their features alone where one of them was ended.

    Args:
        one: of a forward.
        other: of another.
        bitwise: to the last bit.
        within: this share otherwise; 5% is as far as another order of sums takes a deep model.
        dtypes: whether these must be the same too.
    """
    if one.output is None or other.output is None:
        one, other = replace(one, output=None), replace(other, output=None)
    pairs = list(zip(one.tensors(), other.tensors(), strict=False))
    if len(one.tensors()) != len(other.tensors()) or any(a.shape != b.shape for a, b in pairs):
        return False
    if dtypes and any(a.dtype != b.dtype for a, b in pairs):
        return False
    if bitwise:
        return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)
    return all(not a.is_floating_point() or _relative(a, b) < within for a, b in pairs)


def difference(low: Seen, full: Seen, keys: Sequence[str]) -> str:
    """What to say about the two, or nothing where they have nothing in common to compare.

    Args:
        low: in low precision.
        full: in full precision.
        keys: what the model calls its logits.
    """
    parts = []
    with suppress(ModelError):  # the forward ended before them, or this teacher has none
        parts.append(_of_logits(logits_of(low.output, keys).float(), logits_of(full.output, keys).float()))
    for layer, tensors in low.features.items():
        pairs = list(zip(tensors, full.features.get(layer, []), strict=False))
        errors = [_relative(one, other) for one, other in pairs if one.is_floating_point() and one.shape == other.shape]
        if errors:
            parts.append(f"features of {layer or 'the whole model'} by {max(errors):.2%}")
    return "; ".join(parts)


def _of_logits(low: Tensor, full: Tensor) -> str:
    """Largest and mean difference of logits [N, C], [N, T, C] or [N, C, H, W], and where both have one answer."""
    apart = (low - full).abs()
    axis = 1 if low.ndim >= 4 else -1
    rows = "rows" if low.ndim == 2 else "positions"
    same = (low.argmax(axis) == full.argmax(axis)).float()
    return (
        f"logits differ by at most {float(apart.max()):.3g} (mean {float(apart.mean()):.2g}), "
        f"the same class is the largest in {float(same.mean()):.1%} of {same.numel()} {rows}"
    )


def _relative(low: Tensor, full: Tensor) -> float:
    """The norm of the difference as a share of the norm."""
    low, full = low.detach().double(), full.detach().double()
    return float((low - full).norm() / full.norm().clamp(min=1e-30))


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def take(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_tensors(take, value)
    return found
