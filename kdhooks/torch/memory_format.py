"""A student's convolutions with their weights in channels last, for the time of a run.

Rules: values never change, only where they lie in memory; the parameters stay the very objects that optimizers and
hooks hold. What belongs to a weight element by element (its gradient, an optimizer's state) gets the weight's strides
with it: torch's fused optimizers on the CPU walk through memory without looking at strides (torch 2.13).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdhooks.torch.outputs import map_tensors

_CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)


@contextmanager
def channels_last(model: nn.Module, optimizer: Any = None) -> Iterator[None]:
    """Within the block the weights of the model's 2-D convolutions lie in channels last; afterwards as before.

    Args:
        model: its values, and a state dict of them, stay what they are.
        optimizer: whose state follows the weights.
    """
    with ExitStack() as stack:
        for weight in _weights(model):
            stack.callback(_lay, weight, weight.stride(), optimizer)
        to_channels_last(model, optimizer)
        yield


def to_channels_last(model: nn.Module, optimizer: Any = None) -> None:
    """Put the weights of the model's 2-D convolutions into channels last, and what an optimizer keeps for them."""
    for weight in _weights(model):
        strides = torch.empty_like(weight, device="meta", memory_format=torch.channels_last).stride()
        _lay(weight, strides, optimizer)


def follow_strides(parameters: Iterator[nn.Parameter], optimizer: Any) -> None:
    """Give an optimizer's state, after it was loaded from a file, the strides of the parameters."""
    for parameter in parameters:
        _follow(parameter, optimizer)


def input_layout(channels_last: bool) -> Callable[[Any], Any]:
    """A function that puts the maps [N, C, H, W] of a model's input into channels last, or leaves all as it is."""
    if not channels_last:
        return lambda nest: nest
    return lambda nest: map_tensors(_last, nest)


def _last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _weights(model: nn.Module) -> list[nn.Parameter]:
    """The weights of 2-D convolutions, each once; a weight that something computes, or that is sharded, is not one."""
    found: dict[int, nn.Parameter] = {}
    for module in model.modules():
        weight = module._parameters.get("weight") if isinstance(module, _CONVOLUTIONS) else None
        if weight is not None and not is_lazy(weight) and type(weight.data) is Tensor:
            found[id(weight)] = weight
    return list(found.values())


def _lay(weight: nn.Parameter, strides: tuple[int, ...], optimizer: Any) -> None:
    if weight.stride() != strides:
        weight.data = _strided(weight.data, strides)
    _follow(weight, optimizer)


def _follow(parameter: nn.Parameter, optimizer: Any) -> None:
    strides = parameter.stride()
    if parameter.grad is not None and parameter.grad.stride() != strides:
        parameter.grad = _strided(parameter.grad, strides)
    state = getattr(optimizer, "state", {}).get(parameter, {})
    for name, value in state.items():
        if isinstance(value, Tensor) and value.shape == parameter.shape and value.stride() != strides:
            state[name] = _strided(value, strides)


def _strided(tensor: Tensor, strides: tuple[int, ...]) -> Tensor:
    with torch.no_grad():
        return torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device).copy_(tensor)
