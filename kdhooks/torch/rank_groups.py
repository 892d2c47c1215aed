"""Which ranks train a student together, and the mean of their gradients for parameters that no wrapper knows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kdhooks.errors import ModelError
from kdhooks.torch.sharding import data_mesh, group_of
from kdhooks.torch.wrappers import inside


def average(parameters: Sequence[nn.Parameter], group: Any) -> None:
    """Replace gradients by their mean over the ranks, in one exchange for each dtype and device.

    What was accumulated before is equal on all ranks, so after several backwards it is the mean of the sums.
    """
    kinds = dict.fromkeys((parameter.dtype, parameter.device) for parameter in parameters)
    for kind in kinds:
        mine = [parameter for parameter in parameters if (parameter.dtype, parameter.device) == kind]
        grads = [one.grad if one.grad is not None else torch.zeros_like(one) for one in mine]
        flat = torch.cat([grad.reshape(-1) for grad in grads])
        torch.distributed.all_reduce(flat, group=group)
        flat /= torch.distributed.get_world_size(group)
        for parameter, part in zip(mine, flat.split([grad.numel() for grad in grads]), strict=True):
            parameter.grad = part.view_as(parameter).clone()


def process_group(student: nn.Module, found: Iterable[Any]) -> Any:
    """The ranks that train this student together, or None.

    Under `fully_shard` they are those of the mesh, of all its dimensions: with hybrid sharding, those of all replicas.

    Args:
        student: the model.
        found: all living objects that may be a DistributedDataParallel around it.
    """
    wrapper = _wrapper(student, found)
    if wrapper is not None:
        return wrapper.process_group
    mesh = data_mesh(student)
    if mesh is None:  # shared out by hand
        meshes = [one.device_mesh for one in student.parameters() if hasattr(one, "device_mesh")]
        mesh = next((one for one in meshes if one.ndim == 1), None)
    return group_of(mesh)


def check_join(student: nn.Module, found: Iterable[Any], what: str) -> None:
    """ModelError inside of DistributedDataParallel's ``join()``, which knows nothing of exchanges besides its own."""
    wrapper: Any = _wrapper(student, found)
    if wrapper is not None and getattr(wrapper._join_config, "enable", False):
        raise ModelError(
            f"the {what} can't be trained inside of join(): a rank without batches would not take part in the mean of "
            "their gradients. Give all ranks equally many batches, as DistributedSampler does"
        )


def _wrapper(student: nn.Module, found: Iterable[Any]) -> Any:
    """The DistributedDataParallel of several ranks around a student, or around what it is a part of."""
    root = inside(student)
    for one in found:
        if not isinstance(one, DistributedDataParallel) or one.process_group.size() == 1:
            continue
        if any(module is root for module in one.modules()):
            return one
    return None
