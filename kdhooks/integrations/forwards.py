"""The student's own forward, seen from outside: what it got and what it returned, for trainers that tell neither.

Rules: a forward counts only where a backward can follow, so not while gradients are off and not inside of a backward
(recomputation under checkpointing). A copy or a pickle of the student carries no working hook.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdhooks.errors import UsageError
from kdhooks.torch.taps import ForwardHook
from kdhooks.torch.wrappers import inside

IGNORED = -100
"""The label of a position that does not count."""


class Forward(NamedTuple):
    """One forward of the student: its input as `Distillation.on_after_compute_loss` takes it, and its output."""

    input: Any
    output: Any


class Begins(ForwardHook):
    """Before the forward: calls a function of no argument."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def __call__(self, module: nn.Module, args: Any) -> None:
        """A forward begins."""
        if trains():
            self._function()


class Ends(ForwardHook):
    """After the forward: calls a function with the `Forward`."""

    def __init__(self, function: Callable[[Forward], None]) -> None:
        self._function = function

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """A forward has ended."""
        if trains():
            self._function(Forward(input_of(module, args, kwargs), output))


def trains() -> bool:
    """Whether a forward that runs now is one that a backward will follow."""
    return torch.is_grad_enabled() and torch._C._current_graph_task_id() == -1


def input_of(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """A call's arguments as one input: the only one, a tuple, or a mapping by the names of the model's own forward.

    Raises:
        UsageError: some have no name in the model's forward, others are named.

    >>> model = nn.Linear(1, 1)
    >>> input_of(model, (1,), {}), input_of(model, (1, 2), {}), input_of(model, (), {"input": 1})
    (1, (1, 2), {'input': 1})
    """
    if not kwargs:  # a collection as the only argument would be taken for several
        return args[0] if len(args) == 1 and not isinstance(args[0], (tuple, list, Mapping)) else args
    if not args:
        return dict(kwargs)
    bound = inspect.signature(type(inside(module)).forward).bind(None, *args, **kwargs)
    own, *_ = bound.signature.parameters
    named = {name: value for name, value in bound.arguments.items() if name != own}
    for parameter in bound.signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL and parameter.name in named:
            raise UsageError(
                f"the student {type(inside(module)).__name__} is called with *{parameter.name} and with named "
                "arguments, which can't be handed on to the teacher together: name them all"
            )
        if parameter.kind is parameter.VAR_KEYWORD:
            named |= named.pop(parameter.name, {})
    return named


def target_of(given: Any, key: str | None, *, shifted: bool) -> Tensor | None:
    """The labels among a forward's keyword arguments; None where there are none, or none of whole numbers.

    Args:
        given: the input.
        key: their name; None looks for none.
        shifted: whether the label of a token stands one place behind it, as causal models have it.
    """
    found = given.get(key) if key is not None and isinstance(given, Mapping) else None
    if not isinstance(found, Tensor) or found.is_floating_point():
        return None
    if not shifted:
        return found
    rest = found.new_full((*found.shape[:-1], 1), IGNORED)
    return torch.cat([found[..., 1:], rest], dim=-1)


def is_causal(student: nn.Module) -> bool:
    """Whether a model of Hugging Face shifts its labels by itself."""
    return getattr(inside(student), "loss_type", None) == "ForCausalLM"
