"""Output heads for the chunked loss: their weights, and products that are fast for a wide vocabulary.

Torch's own float32 product on CPUs is MKL's, which writes where it should and adds to what is there. MKL runs at half
its speed on processors of other makers; there they go through oneDNN where this torch has it. Everything else, and any
torch without that operator, takes torch's own product; the numbers agree to rounding.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks.errors import ModelError

_BLOCK = 8192  # classes of one product on a CPU: its part of the weight then stays in cache


class Head(NamedTuple):
    """A linear layer over the vocabulary: weight [V, D] and bias [V] or None."""

    weight: Tensor
    bias: Tensor | None


def as_head(head: Any, owner: str) -> Head:
    """The weight and bias of an `nn.Linear`, of (weight, bias), or of a weight alone.

    Raises:
        ModelError: anything else, such as a layer with its own forward, which would be passed over.
    """
    if isinstance(head, nn.Module):
        if type(head).forward is not nn.Linear.forward or head._forward_hooks or head._forward_pre_hooks:
            raise ModelError(
                f"the {owner}'s head is {type(head).__name__} with a forward or hooks of its own; "
                "pass (weight, bias) of what it computes"
            )
        found = Head(head.weight, head.bias)  # type: ignore[arg-type]
    elif isinstance(head, Tensor):
        found = Head(head, None)
    else:
        try:
            found = Head(*head)
        except TypeError:
            raise ModelError(f"the {owner}'s head is nn.Linear, a weight [V, D], or (weight, bias)") from None
    weight, bias = found
    if not isinstance(weight, Tensor) or weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise ModelError(f"the {owner}'s head needs a weight [V, D] and a bias [V] or None")
    return found


def product(rows: Tensor, weight: Tensor) -> Tensor:
    """Rows [M, K] with weight [N, K]: rows @ weightᵀ, [M, N]."""
    if rows.device.type == "cpu" and rows.dtype == torch.float32 and _ONEDNN is not None and rows.numel():
        result: Tensor = _ONEDNN(rows, weight, None, "none", [], "")
        return result
    return F.linear(rows, weight)


def logits_into(buffer: Tensor, hidden: Tensor, head: Head) -> None:
    """Write hidden [R, D] @ weightᵀ + bias into a buffer [R, V] of any floating dtype."""
    if _in_place(buffer, hidden, head.weight):
        torch.mm(hidden, head.weight.t(), out=buffer)
        if head.bias is not None:
            buffer.add_(head.bias)
        return
    classes = len(head.weight)
    step = _BLOCK if hidden.device.type == "cpu" else classes
    for begin in range(0, classes, max(1, step)):
        block = slice(begin, begin + step)
        logits = product(hidden, head.weight[block])
        if head.bias is None:
            buffer[:, block].copy_(logits)
        else:
            torch.add(logits, head.bias[block].to(logits.dtype), out=logits)
            buffer[:, block].copy_(logits)


def add_weight_gradient(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Add gradientᵀ [V, R] @ hidden [R, D] to a total [V, D]."""
    if _in_place(total, gradient, hidden):
        total.addmm_(gradient.t(), hidden)
        return
    classes = len(total)
    step = _BLOCK if hidden.device.type == "cpu" else classes
    columns = hidden.t().contiguous()
    for begin in range(0, classes, max(1, step)):
        block = slice(begin, begin + step)
        total[block] += product(gradient[:, block].t(), columns)


def _in_place(*tensors: Tensor) -> bool:
    """Whether a product goes where it should with no copy: float32 by torch's own product."""
    kinds = {each.device.type for each in tensors}
    return (kinds == {"cuda"} or (kinds == {"cpu"} and _ONEDNN is None)) and all(
        each.dtype == torch.float32 for each in tensors
    )


def _mkl_is_at_home() -> bool:
    """Whether torch's products are MKL's on a processor of its maker, as far as the system tells."""
    if not torch.backends.mkl.is_available():
        return False
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return "GenuineIntel" in file.read(4096)
    except OSError:
        return False


def _find_onednn() -> Any:
    """The operator that TorchInductor's CPU code calls for linear layers, if it is here and right."""
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        operator = torch.ops.mkldnn._linear_pointwise.default
        rows, weight = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 6.0], [7.0, 8.0], [9.0, 1.0]])
        right = torch.equal(operator(rows, weight, None, "none", [], ""), rows @ weight.t())
    except (AttributeError, RuntimeError, TypeError):
        return None
    return operator if right else None


_ONEDNN = None if _mkl_is_at_home() else _find_onednn()
