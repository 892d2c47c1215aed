"""Inputs and outputs of models, in the forms that people's models have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdhooks.errors import ModelError
from kdhooks.nests import map_leaves


def logits_of(output: Any, keys: Sequence[str] = (), *, model: str = "student") -> Tensor:
    """The logits in a model's output: a tensor, a tuple, a mapping, or an object with ``.logits``.

    Args:
        output: what the model returned.
        keys: names to look for first, in a mapping or among the attributes (``model.outputs``).
        model: names the model in errors.

    Returns:
        Logits of shape [N, C], [N, T, C], [N, C, H, W], ...; of a tuple the first tensor with at
        least two axes, since some models put their loss, a scalar, in front.

    Raises:
        ModelError: nothing in the output can be logits.
    """
    if isinstance(output, Tensor):
        return output
    for key in (*keys, "logits"):
        found = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if isinstance(found, Tensor):
            return found
    if not keys:
        values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
        for value in values:
            if isinstance(value, Tensor) and value.ndim >= 2:
                return value
    wanted = f" named {' or '.join(repr(key) for key in keys)}" if keys else ""
    raise ModelError(f"the {model} returned {describe(output)}, in which there are no logits{wanted}")


def describe(value: Any) -> str:
    """What a value is, in a few words for an error message."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {list(value.shape)}"
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(repr, value)) or '(none)'}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {', '.join(type(item).__name__ for item in value) or 'nothing'}"
    return f"a {type(value).__name__}"


def as_call(value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How an input is passed on: a list or tuple as positional, a mapping as keyword arguments."""
    if isinstance(value, Mapping):
        return (), dict(value)
    if isinstance(value, (tuple, list)):
        return tuple(value), {}
    return (value,), {}


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same nest of tuples, lists and mappings with a function applied to each tensor."""
    return map_leaves(_is_tensor, function, value)


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Tensor)


def constant(tensor: Tensor) -> Tensor:
    """A tensor that carries no graph and may be saved in any: detached, and never an inference tensor."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def runs_ahead(device: torch.device) -> bool:
    """Whether a copy to a device may be asked for and not waited for: the host would read what is not there yet.

    >>> runs_ahead(torch.device("cpu")), runs_ahead(torch.device("cuda"))
    (False, True)
    """
    return device.type != "cpu"


def moved(device: torch.device, dtype: torch.dtype | None) -> Callable[[Tensor], Tensor]:
    """A function that copies a tensor to a device, and floats to a dtype, where they differ."""
    ahead = runs_ahead(device)

    def move(tensor: Tensor) -> Tensor:
        if dtype is not None and tensor.dtype != dtype and tensor.is_floating_point():
            return tensor.to(device, dtype, non_blocking=ahead)
        return tensor if tensor.device == device else tensor.to(device, non_blocking=ahead)

    return move
