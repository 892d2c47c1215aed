"""Copies of the student's own modules, without its hooks and without its random numbers."""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.dropout import _DropoutNd

from kdhooks.errors import ModelError
from kdhooks.torch.adaptation.discriminator import private
from kdhooks.torch.adaptation.features import wide
from kdhooks.torch.losses.modules import fill_uniform


def missing_module(adapter: str, module: str) -> ModelError:
    """The error for a module of the student that the method needs and nobody named."""
    return ModelError(
        f"the adapter {adapter!r} needs the student's {module}: name its layer with {module}: in its options"
    )


def twin_of(module: nn.Module) -> nn.Module:
    """A copy in which no hook is called, without gradients and without dropout, which draws from the user's generator.

    Raises:
        ModelError: it can't be copied.
    """
    for part in module.modules():
        if any(type(hook).__module__.startswith("torch.nn.utils.") for hook in part._forward_pre_hooks.values()):
            raise ModelError(  # such a hook makes the weight anew; without it the copy would keep the old one
                f"the student's {type(part).__name__} makes its weight in a hook of torch.nn.utils, which a copy would "
                "lack; use torch.nn.utils.parametrizations instead"
            )
    tables = (
        table
        for part in module.modules()
        for name, table in vars(part).items()
        if name.endswith("_hooks") and isinstance(table, OrderedDict)
    )
    try:  # deepcopy finds an empty table wherever it would copy one of hooks
        twin = copy.deepcopy(module, {id(table): OrderedDict() for table in tables})
    except (TypeError, RuntimeError, AttributeError) as problem:
        first = str(problem).splitlines()[0]
        raise ModelError(f"the student's {type(module).__name__} can't be copied: {first}") from None
    for part in twin.modules():
        if isinstance(part, _DropoutNd):
            part.p = 0.0
    twin.zero_grad(set_to_none=True)
    return twin


def fresh_twin_of(module: nn.Module, seed: int, dtype: torch.dtype) -> nn.Module:
    """A copy with parameters of its own, drawn as its parts draw theirs, from a private generator.

    Parts that can't draw anew (no ``reset_parameters``) get uniform numbers in ±1/sqrt(in) where a parameter has two
    axes or more, and keep the others.
    """
    twin = twin_of(module).to(device="cpu", dtype=dtype).train().requires_grad_(True)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # they draw from torch's own generator, the user's
        torch.default_generator.manual_seed(private(seed))
        for part in twin.modules():
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
                continue
            for parameter in part.parameters(recurse=False):
                if parameter.ndim > 1:
                    bound = 1 / math.sqrt(max(1, parameter[0].numel()))
                    fill_uniform(parameter, bound, torch.default_generator)
    return twin


def parameters_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters in float32 or wider, part of the graph, for `called_with`."""
    return {name: wide(parameter) for name, parameter in module.named_parameters()}


def called_with(twin: nn.Module, parameters: dict[str, Tensor], buffers: nn.Module, given: Tensor) -> Tensor:
    """What a copy gives with other parameters; buffers are copies, so nothing of the student moves.

    Args:
        twin: the copy.
        parameters: by name.
        buffers: the module whose buffers it reads.
        given: its input.
    """
    held = {name: wide(buffer).clone() for name, buffer in buffers.named_buffers()}
    made: Any = torch.func.functional_call(twin, {**parameters, **held}, (given,))
    if not isinstance(made, Tensor):
        raise ModelError(f"the student's head must return logits, not {type(made).__name__}")
    return made
