"""How adapters read features and logits: as rows, in float32 or wider, with autocast off."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from kdhooks.adaptation import shapes


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) if tensor.is_floating_point() else tensor


def full_precision(device: torch.device) -> AbstractContextManager[object]:
    """A context without autocast: half precision loses sums of squares."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def pooled_shape(shape: Sequence[int], pool: str) -> list[int]:
    """The shape of `rows_of` with more than two axes left as they are where nothing is averaged."""
    if pool == "mean" and len(shape) > 2:
        return [shape[0], shape[1] if len(shape) >= 4 else shape[2]]
    return list(shape)


def rows_of(feature: Tensor, pool: str = "flatten") -> Tensor:
    """[N, D]: a row a sample.

    Args:
        feature: [N, C, *space] with four or more axes, tokens [N, T, D], or rows [N, D].
        pool: ``flatten`` keeps everything, ``mean`` averages over space or tokens.
    """
    if pool == "mean" and feature.ndim > 2:
        return feature.flatten(2).mean(2) if feature.ndim >= 4 else feature.mean(1)
    return feature.flatten(1)


def two_domains(adapter: str, source: Tensor, target: Tensor, pool: str) -> tuple[Tensor, Tensor]:
    """Rows of both domains, in one dtype and on one device; ModelError where they have not one width."""
    shapes.check_widths(adapter, "features", pooled_shape(source.shape, pool), pooled_shape(target.shape, pool))
    source = wide(source)
    return rows_of(source, pool), rows_of(target.to(source.device, source.dtype), pool)


def class_axis(logits: Tensor) -> int:
    """1 for logits of four or more axes, [N, C, H, W]; the last one otherwise, [N, C] and [N, T, C]."""
    return 1 if logits.ndim >= 4 else -1


def class_rows(logits: Tensor, axis: int | None = None) -> Tensor:
    """[positions, C]: a row for each sample, token or pixel."""
    axis = class_axis(logits) if axis is None else axis
    return logits.movedim(axis, -1).flatten(0, -2)
