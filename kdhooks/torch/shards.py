"""Copies of a whole model that are shared out over processes by `fully_shard`, and whole copies of sharded ones.

Rules: the model that a copy is made of is never written to, so nothing has to be undone on it. A copy's parameters are
made from the weights that are there, without a second whole copy in memory on the host: each process takes its part.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from kdhooks.errors import ModelError
from kdhooks.torch.sharding import author_class, gather_nothing, load_whole_state, sharded_modules
from kdhooks.torch.taps import drop_dead_hooks

LEAST = 500_000
"""Parameters of a block that is gathered by itself; smaller ones are gathered with what is around them."""

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
_MARKS = ("_is_fsdp_managed_module", "_fsdp_use_orig_params")


def data_ranks(device: torch.device) -> Any:
    """The mesh of all ranks of the program, for models on this kind of device."""
    from torch.distributed.device_mesh import init_device_mesh

    return init_device_mesh(device.type, (dist.get_world_size(),))


def sharded_copy(model: nn.Module, mesh: Any, *, least: int = LEAST) -> nn.Module:
    """A copy of a whole model, shared out over the ranks of a mesh block by block.

    Args:
        model: the same on all ranks; its weights are read, and none is written.
        mesh: of the ranks.
        least: parameters of a block that is gathered by itself.

    Raises:
        ModelError: the model can't be copied or sharded.
    """
    kind = type(model).__name__
    memo: dict[int, Any] = {id(one): nn.Parameter(one.detach(), one.requires_grad) for one in model.parameters()}
    try:
        twin = copy.deepcopy(model, memo)
    except Exception as error:
        raise ModelError(f"the {kind} can't be copied, and so not be sharded: {first_line(error)}") from None
    drop_dead_hooks(*twin.modules())
    for buffer in twin.buffers():
        buffer.grad = None
    return shard(twin, mesh, blocks_of(twin, least))


def shard(model: nn.Module, mesh: Any, blocks: list[nn.Module], **options: Any) -> nn.Module:
    """Call `fully_shard` on blocks of a model, the inner ones first, and on the model.

    Raises:
        ModelError: torch refuses it.
    """
    from torch.distributed.fsdp import fully_shard

    try:
        for module in (*blocks, model):
            fully_shard(module, mesh=mesh, **options)
    except (ValueError, RuntimeError, NotImplementedError, AssertionError) as error:
        raise ModelError(f"the {author_class(model).__name__} can't be sharded: {first_line(error)}") from None
    return model


def blocks_of(model: nn.Module, least: int) -> list[nn.Module]:
    """What is gathered by itself: elements of lists and sequences of modules that are large enough, the inner first.

    A block whose weights another part of the model has too is none: that part would find them shared out.
    """
    owners: dict[int, int] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                owners[id(parameter)] = owners.get(id(parameter), 0) + 1
    found: dict[int, nn.Module] = {}
    inside: set[int] = set()
    for module in model.modules():  # the outer ones come first
        if not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        if isinstance(module, nn.Sequential) and id(module) in inside:  # a part of a layer
            continue
        for child in module.children():
            if not isinstance(child, (nn.ModuleList, nn.ModuleDict, nn.Sequential)) and _stands_alone(
                child, owners, least
            ):
                found[id(child)] = child
                inside.update(id(one) for one in child.modules())
    return list(reversed(list(found.values())))


def _stands_alone(block: nn.Module, owners: Mapping[int, int], least: int) -> bool:
    own: dict[int, int] = {}
    size = 0
    for module in block.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                size += parameter.numel() if id(parameter) not in own else 0
                own[id(parameter)] = own.get(id(parameter), 0) + 1
    return size >= least and all(owners[key] == count for key, count in own.items())


def first_line(error: BaseException) -> str:
    """What an error says first."""
    return (str(error).splitlines() or [type(error).__name__])[0]


# ---- whole copies of sharded models ----------------------------------------------------------------


def whole_copy(model: nn.Module, weights: Mapping[str, Any] | None = None) -> nn.Module:
    """A copy of a sharded model as its author wrote it, on the host, without gradients.

    Args:
        model: under `fully_shard`; nothing is exchanged.
        weights: whole tensors by name, which the copy gets; None leaves its parameters on the meta device.
    """
    gather_nothing(model)
    device = "meta" if weights is None else "cpu"
    memo: dict[int, Any] = {
        id(one): nn.Parameter(torch.empty(one.shape, dtype=one.dtype, device=device), one.requires_grad)
        for one in model.parameters()
    }
    memo |= {id(one): one.detach().to("cpu", copy=True) for one in model.buffers()}
    for module in reversed(sharded_modules(model)):  # the inner ones are found in the memo by the outer ones
        _as_written(module, memo)
    twin: nn.Module = copy.deepcopy(model, memo)
    for module in twin.modules():
        for mark in _MARKS:
            vars(module).pop(mark, None)
        for name in _HOOKS:  # modules below one that is sharded have hooks of it as well
            hooks = vars(module)[name]
            for number in [number for number, hook in hooks.items() if of_sharding(hook)]:
                del hooks[number]
    drop_dead_hooks(*twin.modules())
    if weights is not None:
        twin.load_state_dict(weights)
    return twin


def _as_written(module: nn.Module, memo: dict[int, Any]) -> None:
    """Put a copy of a module without what `fully_shard` has added into a memo."""
    kind = author_class(module)
    twin = memo[id(module)] = kind.__new__(kind)
    own = {key: value for key, value in vars(module).items() if isinstance(value, nn.Module) or not _is_composed(value)}
    own |= {name: _without_theirs(own[name]) for name in _HOOKS}
    vars(twin).update(copy.deepcopy(own, memo))


def _without_theirs(hooks: Mapping[int, Any]) -> OrderedDict[int, Any]:
    """Hooks without those of `fully_shard`."""
    return OrderedDict((number, hook) for number, hook in hooks.items() if not of_sharding(hook))


def of_sharding(hook: Any) -> bool:
    """Whether a hook is one of `fully_shard`."""
    function = getattr(hook, "hook", hook)
    return str(getattr(function, "__module__", "")).startswith("torch.distributed.fsdp")


def _is_composed(value: Any) -> bool:
    """Whether an attribute of a module is what torch notes about `fully_shard` there."""
    if not isinstance(value, dict) or not value:
        return False
    kinds = (type(one).__module__ for one in value.values())
    return all(kind.startswith(("torch.distributed.fsdp", "torch.distributed._composable")) for kind in kinds)


def sharded_like(model: nn.Module, weights: Mapping[str, Any]) -> nn.Module:
    """A copy of a sharded model that is shared out in the same way.

    Args:
        model: under `fully_shard`; every rank calls this.
        weights: whole tensors by name, on every rank.
    """
    twin = whole_copy(model, weights)
    for name, module in _named_sharded(model):
        from torch.distributed.fsdp import fully_shard

        group = next(iter(module._get_fsdp_state()._fsdp_param_groups), None)
        if group is not None:
            fully_shard(
                twin.get_submodule(name), mesh=group.mesh_info.mesh, mp_policy=module._get_fsdp_state()._mp_policy
            )
    load_whole_state(twin, weights)
    return twin


def _named_sharded(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Sharded modules with their names, the inner ones first."""
    yield from reversed([(name, one) for name, one in model.named_modules() if hasattr(one, "_get_fsdp_state")])
