"""How features are read: axes, precision, norms that stay finite at zero, and messages about shapes.

Shapes: [N, C, H, W] (or more axes of space) with channels on axis 1, [N, T, D] with channels last, and
rows [N, D]. A zero vector has no direction: its unit vector is zero here and so is its gradient.
Whatever is compared is computed in float32 or wider, also under autocast.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from kdhooks.errors import ModelError
from kdhooks.losses import shapes
from kdhooks.torch.losses import positions

Function = TypeVar("Function", bound=Callable[..., Tensor])


def channel_axis(feature: Tensor) -> int:
    """1 for maps of four or more axes, the last one otherwise."""
    return 1 if feature.ndim >= 4 else -1


def rows(feature: Tensor) -> Tensor:
    """One row a sample: [N, everything else]."""
    return feature.flatten(1) if feature.ndim > 1 else feature.unsqueeze(1)


def channels_by_positions(feature: Tensor) -> Tensor:
    """[N, C, positions] of a map, of tokens or of rows (one position)."""
    if feature.ndim >= 4:
        return feature.flatten(2)
    return feature.transpose(1, 2) if feature.ndim == 3 else feature.unsqueeze(2)


def length(vectors: Tensor, dim: int | tuple[int, ...], *, keepdim: bool = False) -> Tensor:
    """Euclidean norm, with gradient 0 at a zero vector."""
    squared = vectors.square().sum(dim, keepdim=keepdim)
    longer = squared > 0
    return torch.where(longer, torch.where(longer, squared, 1.0).sqrt(), 0.0)


def unit(vectors: Tensor, dim: int | tuple[int, ...], noise: Tensor | None = None) -> Tensor:
    """Vectors of length 1; zero, with gradient 0, where a vector is no longer than rounding.

    Args:
        vectors: any shape.
        dim: the axes of a vector.
        noise: squared length that rounding alone may have left, where vectors are differences.
    """
    squared = vectors.square().sum(dim, keepdim=True)
    shortest = torch.finfo(vectors.dtype).eps ** 2
    floor = torch.full_like(squared, shortest) if noise is None else noise + shortest
    longer = squared > floor
    return torch.where(longer, vectors * torch.where(longer, squared, 1.0).rsqrt(), 0.0)


def in_full_precision(loss: Function) -> Function:
    """Decorates a loss so that it runs as in `full_precision`."""

    @functools.wraps(loss)
    def widened(student_feature: Any, teacher_feature: Any, **options: Any) -> Tensor:
        return full_precision(loss, student_feature, teacher_feature, **options)

    return cast(Function, widened)


def full_precision(loss: Callable[..., Tensor], student_feature: Any, teacher_feature: Any, **options: Any) -> Tensor:
    """Call a loss with widened features and autocast off: half precision loses sums of squares.

    Features are tensors, or lists of them of one length.
    """
    student, teacher = _widened(student_feature, teacher_feature)
    kind = _first(student).device.type
    if torch.amp.is_autocast_available(kind):
        with torch.autocast(kind, enabled=False):
            return loss(student, teacher, **options)
    return loss(student, teacher, **options)


def _widened(student: Any, teacher: Any) -> tuple[Any, Any]:
    if isinstance(student, Tensor) and isinstance(teacher, Tensor):
        return positions.widened(student, teacher)
    if isinstance(student, Tensor) or isinstance(teacher, Tensor) or len(student) != len(teacher) or not len(student):
        raise ModelError("student and teacher need one feature each, or lists of features of one length")
    pairs = [positions.widened(*pair) for pair in zip(student, teacher, strict=True)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def _first(features: Any) -> Tensor:
    first: Tensor = features if isinstance(features, Tensor) else features[0]
    return first


def check_fit(loss: str, student: Tensor, teacher: Tensor, fits: bool, need: str) -> None:
    """ModelError that names the loss and both shapes, unless `fits`."""
    shapes.check_fit(loss, student.shape, teacher.shape, fits, need)


def check_same_shape(loss: str, student: Tensor, teacher: Tensor) -> None:
    """ModelError where two features are not of one shape."""
    shapes.check_same_shape(loss, student.shape, teacher.shape)


def check_same_batch(loss: str, student: Tensor, teacher: Tensor) -> None:
    """ModelError where two features are not of one batch."""
    shapes.check_same_batch(loss, student.shape, teacher.shape)


def check_same_positions(loss: str, student: Tensor, teacher: Tensor) -> None:
    """ModelError where two features differ in batch, number of axes, space or tokens; channels may differ."""
    shapes.check_same_positions(loss, student.shape, teacher.shape, channel_axis(student))


def blanked(student: Tensor, teacher: Tensor, mask: Tensor | None, axis: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Features with zeros at the positions that don't count, and the mask with an axis for channels."""
    if mask is None:
        return student, teacher, None
    mask = positions.position_mask(student, mask, axis, "features", "channels")
    return student.where(mask, 0.0), teacher.where(mask, 0.0), mask
