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
        self._handle = optimizer.register_step_pre_hook(self._enter)

    def add(self, parameters: list[nn.Parameter], state: dict[Tensor, Any]) -> None:
        """More parameters, and what an earlier run's optimizer kept for them."""
        self.parameters += parameters
        self.state |= state

    def end_step(self, optimizer: Optimizer) -> None:
        """The optimizer has stepped; parameters that came while it did, from within a closure, step now."""
        missed = [one for one in self.parameters if self._group is None or not _stands_in(one, self._group)]
        self._leave(optimizer)
        if missed:
            self._step_alone(optimizer, missed)

    def remove(self, optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
        """Parameters are trained no longer."""
        self._leave(optimizer)
        gone = {id(parameter) for parameter in parameters}
        self.parameters = [one for one in self.parameters if id(one) not in gone]
        self.state = {one: value for one, value in self.state.items() if id(one) not in gone}

    def end(self) -> None:
        """Take the hook off."""
        self._handle.remove()

    def _enter(self, optimizer: Optimizer, args: Any = None, kwargs: Any = None) -> None:
        self._leave(optimizer)  # a step that failed has left it
        self._unscale(optimizer)
        self._group = self._group_of(optimizer, self.parameters)
        optimizer.param_groups.append(self._group)

    def _group_of(self, optimizer: Optimizer, parameters: list[nn.Parameter]) -> dict[str, Any]:
        """A group of some of them with the options of the sharded ones; their state is in the optimizer from now on."""
        options = {key: value for key, value in optimizer.param_groups[self._number].items() if key not in _KEPT_OUT}
        optimizer.state.update({one: self.state[one] for one in parameters if one in self.state})
        return {**options, "params": list(parameters)}

    def _step_alone(self, optimizer: Optimizer, parameters: list[nn.Parameter]) -> None:
        """The optimizer's own step, without its hooks and its other groups."""
        step: Any = getattr(type(optimizer).step, "__wrapped__", None)
        if step is None:  # an optimizer without hooks around its step, which has none of ours either
            return
        groups = list(optimizer.param_groups)
        self._group = self._group_of(optimizer, parameters)
        optimizer.param_groups[:] = [self._group]
        try:
            step(optimizer)
        finally:
            optimizer.param_groups[:] = groups
            self._leave(optimizer)

    def _leave(self, optimizer: Optimizer) -> None:
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


def _stands_in(parameter: nn.Parameter, group: dict[str, Any]) -> bool:
    return any(one is parameter for one in group["params"])


def _divided(gradient: Tensor, scale: Tensor) -> Tensor:
    """A gradient by a scale; zeros where some of it is not finite, since the step is not left out for ours alone."""
    by = scale.to(gradient.device, torch.float32)
    divided = (gradient.float() / by).to(gradient.dtype)
    return torch.where(torch.isfinite(gradient).all(), divided, 0.0)
