"""Models whose parameters are shared out over processes by FSDP2's `fully_shard`: what they are, whole and in parts.

Rules: nothing here shards a model (that is `kdhooks.torch.shards`). Between a forward and its backward the outermost
module may hold plain parameters in place of its shards, so whoever reads parameters calls `gather_nothing` first, never
inside of a forward or a backward. Whole tensors are put together one after the other, and every rank of the mesh has
to ask for the same ones in the same order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdhooks.errors import ModelError


def sharded_modules(model: nn.Module) -> list[Any]:
    """The modules that `fully_shard` was called on."""
    return [module for module in model.modules() if hasattr(module, "_get_fsdp_state")]


def is_shard(tensor: Any) -> bool:
    """Whether a tensor is a DTensor: this process holds a part of it, or a copy among others."""
    return hasattr(tensor, "device_mesh") and hasattr(tensor, "full_tensor")


def is_sharded(model: nn.Module) -> bool:
    """Whether `fully_shard` was called on a model or on parts of it."""
    return bool(sharded_modules(model))


def gather_nothing(model: nn.Module) -> None:
    """Let every module of a sharded model hold its shards, as between two steps."""
    for module in sharded_modules(model):
        module.reshard()


def author_class(module: nn.Module) -> type[nn.Module]:
    """The class that a module was written as: `fully_shard` puts one of its own, called FSDP..., before it."""
    kind = type(module)
    if hasattr(module, "_get_fsdp_state") and len(kind.__bases__) == 2:
        own: type[nn.Module] = kind.__bases__[1]
        return own
    return kind


def param_groups(module: Any) -> list[Any]:
    """The groups of parameters that `fully_shard` made for a module."""
    state = module._get_fsdp_state()
    several = getattr(state, "_fsdp_param_groups", None)
    found = [state._fsdp_param_group] if several is None else list(several)
    return [one for one in found if one is not None]


def data_mesh(model: nn.Module) -> Any:
    """The mesh of the ranks that train a sharded model together, each with rows of its own; None where there is none.

    Experts, say, may be shared out over fewer ranks than the rest: the largest mesh is that of the data.
    """
    meshes = [group.mesh_info.mesh for module in sharded_modules(model) for group in param_groups(module)]
    return max(meshes, key=lambda mesh: mesh.size(), default=None)


def group_of(mesh: Any) -> Any:
    """One process group of all ranks of a mesh, or None where it is of one rank.

    Every rank of the mesh has to ask at the same time.
    """
    if mesh is None or mesh.size() == 1:
        return None
    if mesh.ndim == 1:
        return mesh.get_group()
    if mesh.size() == dist.get_world_size():
        return dist.group.WORLD
    return mesh._flatten().get_group()


def unreduced(model: nn.Module) -> bool:
    """Whether a sharded model holds gradients of backwards that were not exchanged yet."""
    for module in sharded_modules(model):
        for group in param_groups(module):
            for one in group.fsdp_params:
                if one.unsharded_accumulated_grad is not None:
                    return True
                if getattr(getattr(one, "_unsharded_param", None), "grad", None) is not None:
                    return True
    return False


def local_part(tensor: Any) -> Tensor:
    """What this process holds of a tensor."""
    part: Tensor = tensor.to_local() if is_shard(tensor) else tensor
    return part


def whole(tensor: Tensor) -> Tensor:
    """A tensor put together from all ranks, where it is one of several processes."""
    if not is_shard(tensor):
        return tensor
    shard: Any = tensor.detach()
    if shard.device.type != shard.device_mesh.device_type:  # offloaded to the host
        shard = shard.to(shard.device_mesh.device_type)
    found: Tensor = shard.full_tensor()
    return found


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """The part of a whole tensor that this process holds of another one; every rank has the whole tensor."""
    if not is_shard(like):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    shard: Any = like
    mesh = shard.device_mesh
    value = tensor.to(mesh.device_type)
    return distribute_tensor(value, mesh, shard.placements, src_data_rank=None).to(like.device)


def whole_state(model: nn.Module, *, keep: bool = True) -> dict[str, Any]:
    """A model's ``state_dict()`` on the host, every tensor whole and a copy.

    Args:
        model: of which every rank calls this at the same time, where it is sharded.
        keep: whether this process wants it; the others get an empty one.
    """
    state: dict[str, Any] = {}
    for name, value in model.state_dict().items():
        found = whole(value) if isinstance(value, Tensor) else value
        if keep:
            state[name] = found.detach().to("cpu", copy=True) if isinstance(found, Tensor) else found
    return state


def load_whole_state(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Load a state of whole tensors into a model that may be sharded; every rank has the state."""
    if not is_sharded(model):
        model.load_state_dict(state)
        return
    gather_nothing(model)
    own = model.state_dict()
    model.load_state_dict(
        {name: part_like(value, own[name]) if name in own else value for name, value in state.items()}
    )


def whole_optimizer_state(state: Mapping[str, Any], *, keep: bool = True) -> dict[str, Any]:
    """An optimizer's ``state_dict()`` with whole tensors on the host; see `whole_state`."""
    slots: dict[Any, Any] = {}
    for key, slot in state["state"].items():
        found = {name: whole(value) if isinstance(value, Tensor) else value for name, value in slot.items()}
        if keep:
            slots[key] = {
                name: value.to("cpu", copy=True) if isinstance(value, Tensor) else value
                for name, value in found.items()
            }
    return {**state, "state": slots}


def parts_of_optimizer_state(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state of whole tensors as this process keeps it.

    Args:
        state: of all ranks together, whose indices are those of the optimizer's parameters in their order.
        optimizer: that will load it.
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    like = dict(zip(numbers, parameters, strict=True))
    slots = {
        key: {name: _as_kept(value, like.get(key)) for name, value in slot.items()}
        for key, slot in state["state"].items()
    }
    return {**state, "state": slots}


def _as_kept(value: Any, parameter: Any) -> Any:
    """What an optimizer keeps for a parameter: of its shape and shared out like it, or the same on all ranks."""
    if isinstance(value, Tensor) and parameter is not None and value.shape == parameter.shape and is_shard(parameter):
        return part_like(value, parameter)
    return value


def check_still_whole(student: nn.Module, known: Iterable[Tensor]) -> None:
    """ModelError where a student was sharded since its parameters were looked at.

    Args:
        student: the model.
        known: its parameters as they were when training began.
    """
    if is_sharded(student) and not any(map(is_shard, known)):
        raise ModelError(
            f"the student {author_class(student).__name__} was sharded after on_train_begin(), and its optimizer holds "
            "other parameters now. Call fully_shard first, then make the optimizer, then call on_train_begin()"
        )


def broadcast_buffers(model: nn.Module, group: Any = None) -> None:
    """Give every rank the buffers of the first one."""
    source = 0 if group is None else dist.get_global_rank(group, 0)
    for buffer in model.buffers():
        dist.broadcast(local_part(buffer), source, group=group)


def ranks_of(mesh: Any) -> tuple[int, ...]:
    """The ranks of a mesh, in the whole program."""
    return tuple(sorted(mesh.mesh.flatten().tolist()))


def bad_parts(named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Tensor]]:
    """Names and, for each, whether a parameter holds NaN or infinity, on its own device; of a shard on any rank."""
    for name, parameter in named:
        bad = torch.isfinite(local_part(parameter.detach())).all().logical_not()
        if is_shard(parameter) and (group := group_of(parameter.device_mesh)) is not None:
            count = bad.to(torch.int64)
            dist.all_reduce(count, dist.ReduceOp.MAX, group=group)
            bad = count.to(torch.bool)
        yield name, bad


def written(tensor: Any) -> int:
    """How often a tensor, or the part of it that is here, was written to."""
    here: int = tensor._version
    return here + tensor._local_tensor._version if is_shard(tensor) else here
