"""Gradient reversal: the identity forwards, the gradient times -λ backwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Reversed(torch.autograd.Function):
    """With a number as λ."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, coefficient: float) -> Tensor:
        ctx.coefficient = coefficient
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * -ctx.coefficient, None


class _ReversedBy(torch.autograd.Function):
    """With a tensor as λ: a compiled step reads it anew each time."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, coefficient: Tensor) -> Tensor:
        ctx.save_for_backward(coefficient)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (coefficient,) = ctx.saved_tensors
        return gradients[0] * -coefficient.to(gradients[0].dtype), None


def reverse_gradient(tensor: Tensor, coefficient: float | Tensor = 1.0) -> Tensor:
    """The very numbers of a tensor, whose gradient goes back with the factor -λ.

    Ganin & Lempitsky 2015, "Unsupervised Domain Adaptation by Backpropagation", equations 7 to 9. It is stateless:
    how λ warms up is a schedule (`kdhooks.adaptation.WarmStart`), and whoever trains counts the steps.

    Args:
        tensor: any shape and dtype; the gradient keeps the dtype.
        coefficient: λ, a number, or a scalar tensor, which a compiled step does not compile anew for.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> reverse_gradient(x, 0.5).sum().backward()
        >>> x.grad
        tensor([-0.5000, -0.5000])
    """
    how = _ReversedBy if isinstance(coefficient, Tensor) else _Reversed
    reversed_: Tensor = how.apply(tensor, coefficient)  # type: ignore[no-untyped-call]
    return reversed_
