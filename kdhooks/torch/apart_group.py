"""Plain parameters beside sharded ones, in one optimizer: a group of their own, which is there during its step only.

A DTensor and a plain tensor can't stand in one fused operation, in one call that clips gradients, or in one call of a
GradScaler. So between two steps the optimizer has neither our parameters nor their state. The group takes its options
(the learning rate, say) at every step from that of the sharded ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from kdhooks.torch.wrappers import living

_KEPT_OUT = ("params", "param_names")


class ApartGroup:
    """What trains in an optimizer without standing in it.

    Args:
        optimizer: whose steps it follows.
        number: of the group whose options it has.

    Attributes:
        parameters: in the order in which they came.
        state: what the optimizer keeps for each.
    """

    def __init__(self, optimizer: Optimizer, number: int) -> None:
        self.parameters: list[nn.Parameter] = []
        self.state: dict[Tensor, Any] = {}
        self._number = number
        self._group: dict[str, Any] | None = None
        self._scalers: list[Any] | None = None
        self._handles = [
            optimizer.register_step_pre_hook(self._enter),
            optimizer.register_step_post_hook(self._leave),
        ]

    def add(self, parameters: list[nn.Parameter], state: dict[Tensor, Any]) -> None:
        """More parameters, and what an earlier run's optimizer kept for them."""
        self.parameters += parameters
        self.state |= state

    def remove(self, optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
        """Parameters are trained no longer."""
        self._leave(optimizer)
        gone = {id(parameter) for parameter in parameters}
        self.parameters = [one for one in self.parameters if id(one) not in gone]
        self.state = {one: value for one, value in self.state.items() if id(one) not in gone}

    def end(self) -> None:
        """Take the hooks off."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, optimizer: Optimizer, args: Any = None, kwargs: Any = None) -> None:
        self._leave(optimizer)  # a step that failed has left it
        self._unscale(optimizer)
        options = {key: value for key, value in optimizer.param_groups[self._number].items() if key not in _KEPT_OUT}
        self._group = {**options, "params": list(self.parameters)}
        optimizer.state.update(self.state)
        optimizer.param_groups.append(self._group)

    def _leave(self, optimizer: Optimizer, args: Any = None, kwargs: Any = None) -> None:
        group, self._group = self._group, None
        if group is None:
            return
        optimizer.param_groups[:] = [one for one in optimizer.param_groups if one is not group]
        for parameter in self.parameters:
            if parameter in optimizer.state:
                self.state[parameter] = optimizer.state.pop(parameter)

    def _unscale(self, optimizer: Optimizer) -> None:
        """Divide our gradients as a GradScaler has divided those of the optimizer, which it does not see."""
        if self._scalers is None:
            self._scalers = [one for one in living(GradScaler) if one._enabled]
        if getattr(optimizer, "grad_scale", None) is not None:  # a fused step divides by itself
            return
        for scaler in self._scalers:
            seen = scaler._per_optimizer_states.get(id(optimizer), {})
            if scaler._scale is not None and seen.get("found_inf_per_device"):
                for parameter in self.parameters:
                    if parameter.grad is not None:
                        parameter.grad = _divided(parameter.grad, scaler._scale)


def _divided(gradient: Tensor, scale: Tensor) -> Tensor:
    """A gradient by a scale; zeros where some of it is not finite, since the step is not left out for ours alone."""
    by = scale.to(gradient.device, torch.float32)
    divided = (gradient.float() / by).to(gradient.dtype)
    return torch.where(torch.isfinite(gradient).all(), divided, 0.0)
