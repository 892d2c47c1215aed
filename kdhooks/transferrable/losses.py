"""The loss of a backbone: its own method, or a function that somebody hands in; never a submodule of anything."""

from __future__ import annotations

from typing import Any, cast

from torch import Tensor, nn

from kdhooks.errors import UsageError
from kdhooks.transferrable.plan import Loss


def own_loss(backbone: nn.Module) -> Loss:
    """The backbone's own loss, found at every call: a bound method would be copied with another backbone."""
    if not callable(getattr(backbone, "loss", None)):
        raise UsageError(
            f"the backbone {type(backbone).__name__} carries no loss of its own: pass loss, "
            "a function of (output, label)"
        )
    return BackboneLoss(backbone)


def checked_loss(loss: Any) -> Loss:
    """A loss that nothing has to be trained for."""
    if not callable(loss):
        raise UsageError(f"loss must be a function of (output, label), not {loss!r}")
    if isinstance(loss, nn.Module) and next(loss.parameters(), None) is not None:
        raise UsageError(
            f"the loss {type(loss).__name__} has parameters of its own, which belong into the backbone: make it the "
            "method loss of a module that holds both, and leave loss out"
        )
    return cast(Loss, loss)


class BackboneLoss:
    """The method ``loss`` of a backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        self.backbone = backbone

    def __call__(self, output: Any, label: Any) -> Tensor:
        """The scalar that the backbone makes of its output and a label."""
        value: Tensor = self.backbone.loss(output, label)  # type: ignore[operator]  # a method of the user's class
        return value
