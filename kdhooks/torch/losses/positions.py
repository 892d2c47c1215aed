"""Which positions of logits and features count, and the mean over them; every loss on positions stands on it.

A *position* is what is left without the class (or channel) axis: a row, a token, a pixel. What does not
count is blanked before any arithmetic, since 0 * NaN is NaN in the backward of a masked position.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdhooks.errors import UsageError
from kdhooks.losses import shapes


def check_shapes(student: Tensor, teacher: Tensor) -> None:
    """ModelError where logits are not of one shape, so that nothing broadcasts by accident."""
    shapes.check_logits(student.shape, teacher.shape)


def widened(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Half precision as float32; the teacher in the student's dtype, on its device."""
    if student.dtype in (torch.float16, torch.bfloat16):
        student = student.float()
    if teacher.dtype != student.dtype or teacher.device != student.device:
        teacher = teacher.to(student.device, student.dtype)
    return student, teacher


def prepare(student: Tensor, teacher: Tensor, mask: Tensor | None, axis: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """Check shapes before any arithmetic can broadcast; widen half precision; blank what is masked.

    Returns:
        Both logits, and the mask as booleans of their number of axes, or None.
    """
    check_shapes(student, teacher)
    student, teacher = widened(student, teacher)
    if mask is None:
        return student, teacher, None
    mask = position_mask(student, mask, axis, "logits", "classes")
    return student.where(mask, 0.0), teacher.where(mask, 0.0), mask


class _Counted(torch.autograd.Function):
    """A tensor as it is, whose gradient is 0 at positions that don't count, whatever was computed there."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, mask: Tensor) -> Tensor:
        """The very values."""
        ctx.save_for_backward(mask)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient where it counts."""
        (mask,) = ctx.saved_tensors
        return gradient.where(mask, 0.0), None


def counted(student: Tensor, teacher: Tensor, mask: Tensor | None, axis: int) -> tuple[Tensor, Tensor, Tensor | None]:
    """`prepare` for a loss in which positions don't meet: only the gradient is blanked, in one pass instead of three.

    What is not finite at a position that doesn't count stays there until `mean` leaves it out.
    """
    check_shapes(student, teacher)
    student, teacher = widened(student, teacher)
    if mask is None:
        return student, teacher, None
    if torch.compiler.is_compiling():  # which fuses these passes by itself
        return prepare(student, teacher, mask, axis)
    mask = position_mask(student, mask, axis, "logits", "classes")
    blanked: Tensor = _Counted.apply(student, mask)  # type: ignore[no-untyped-call]
    return blanked, teacher, mask


def position_mask(tensor: Tensor, mask: Tensor, axis: int, what: str, along: str) -> Tensor:
    """The mask as booleans with an axis of size 1 where the classes are; ModelError for another shape."""
    shapes.check_mask(mask.shape, tensor.shape, axis, what, along)
    return mask.to(tensor.device, torch.bool).unsqueeze(axis)


def prepare_labelled(
    loss: str, student: Tensor, teacher: Tensor, target: Tensor | None, mask: Tensor | None, axis: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`prepare` for a loss that needs the target: positions with a negative label don't count.

    Args:
        loss: the loss's name, for messages.
        student: logits.
        teacher: logits of the same shape.
        target: class indices in the shape of the positions, negative (-100) for unlabelled; or
            probabilities of the shape of the logits, whose most probable class is the label.
        mask: positions that count.
        axis: the class axis.

    Returns:
        Both logits, the labels and the mask; the last two have size 1 on the class axis.

    Raises:
        UsageError: there is no target.
        ModelError: shapes that don't fit, or fewer than two classes.
    """
    check_shapes(student, teacher)
    if target is None:
        raise UsageError(f"the loss {loss!r} needs the labels: pass target=")
    shapes.check_classes(loss, student.shape, axis)
    if target.is_floating_point() and target.shape == student.shape:
        target = target.argmax(axis)
    shapes.check_target(target.shape, student.shape, axis)
    target = target.to(student.device, torch.int64).unsqueeze(axis)
    counted = target >= 0
    if mask is not None:
        counted = counted & position_mask(student, mask, axis, "logits", "classes")
    student, teacher = widened(student, teacher)
    return student.where(counted, 0.0), teacher.where(counted, 0.0), target.clamp(min=0), counted


def log_softmax(logits: Tensor, temperature: float, axis: int) -> Tensor:
    """Log of softmax(z / T)."""
    return (logits if temperature == 1 else logits / temperature).log_softmax(axis)


def mean(per_class: Tensor, mask: Tensor | None, axis: int, temperature: float = 1.0) -> Tensor:
    """Sum over classes, mean over the positions that count, times T²; 0 where none counts."""
    scale = temperature * temperature
    if mask is None:
        return per_class.sum() * (scale * per_class.shape[axis] / max(1, per_class.numel()))
    return per_class.sum(axis, keepdim=True).where(mask, 0.0).sum() * scale / mask.sum().clamp(min=1)
