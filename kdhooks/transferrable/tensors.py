"""Tensors with something beside them: what a `TransferrableModel` returns where its backbone returned a tensor.

To every other library they are tensors, with their graph; what is computed from them is an ordinary tensor.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Given:
    """What a training step's forward was called with.

    Attributes:
        source: the input of the backbone: a tensor, a tuple of positional arguments or a mapping of named ones.
        target: the target domain's, or None.
    """

    source: Any
    target: Any = None


class TransferrableModelLoss(Tensor):
    """The total loss, a scalar tensor; its parts are detached, unweighted and on its device.

    Attributes:
        parts: every component by name, as `kdhooks.Distillation.losses` has them, but as tensors.
        backbone_loss: the user's own loss; None where its weight is 0.
        distiller_loss: the distiller's; None without one.
        adapter_loss: that of the adapters, each with its own weight; None without any.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch documents it

    parts: Mapping[str, Tensor]
    backbone_loss: Tensor | None
    distiller_loss: Tensor | None
    adapter_loss: Tensor | None

    @property
    def total_loss(self) -> TransferrableModelLoss:
        """The loss itself."""
        return self


def loss_with_parts(
    total: Tensor,
    parts: Mapping[str, Tensor],
    *,
    backbone: Tensor | None,
    distiller: Tensor | None = None,
    adapter: Tensor | None = None,
) -> TransferrableModelLoss:
    """A loss with its parts beside it; see `TransferrableModelLoss`."""
    loss = total.as_subclass(TransferrableModelLoss)
    loss.parts, loss.backbone_loss, loss.distiller_loss, loss.adapter_loss = parts, backbone, distiller, adapter
    return loss


class TransferrableTensor(Tensor):
    """The output of a backbone that returned a tensor.

    Attributes:
        backbone_output: the very tensor.
        given: what the backbone was called with.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]  # as torch documents it

    backbone_output: Tensor
    given: Given


class TransferrableModelOutput:
    """The output of a backbone that returned no tensor; its items and attributes are those of what it returned.

    Args:
        backbone_output: what the backbone returned: a tuple, a mapping or an object.
        given: what it was called with.
    """

    def __init__(self, backbone_output: Any, given: Given) -> None:
        self.backbone_output, self.given = backbone_output, given

    def __getattr__(self, name: str) -> Any:
        if name in ("backbone_output", "given"):  # a copy that is being made has none yet
            raise AttributeError(name)
        return getattr(self.backbone_output, name)

    def __getitem__(self, key: Any) -> Any:
        return self.backbone_output[key]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.backbone_output)

    def __len__(self) -> int:
        return len(self.backbone_output)

    def __repr__(self) -> str:
        return f"TransferrableModelOutput({self.backbone_output!r})"


def output_with_input(output: Any, given: Given) -> TransferrableTensor | TransferrableModelOutput:
    """A backbone's output that knows its input, so that the loss can find it."""
    if not isinstance(output, Tensor):
        return TransferrableModelOutput(output, given)
    made = output.as_subclass(TransferrableTensor)
    made.backbone_output, made.given = output, given
    return made
