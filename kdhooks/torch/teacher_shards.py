"""Teachers that several processes hold together: shared out on request, or by their user.

Rules: a teacher that is shared out on request stays with its user as it was, and a copy runs in its place; every rank
of a mesh takes part in every forward.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdhooks.errors import ModelError
from kdhooks.messages import logger
from kdhooks.torch.rank_groups import process_group
from kdhooks.torch.sharding import author_class, data_mesh, group_of, is_sharded, ranks_of
from kdhooks.torch.shards import data_ranks, sharded_copy
from kdhooks.torch.teacher_copies import sharded
from kdhooks.torch.wrappers import compiled_parts, inside, living

_KEY = "distillation.teacher.sharded"


def shared_out(teacher: nn.Module, student: nn.Module, *, shares: bool) -> nn.Module:
    """What runs in place of a teacher that is to be shared out over the ranks that train the student.

    Args:
        teacher: whole on every rank; nothing is written to it.
        student: its ranks, and its device, are the teacher's.
        shares: whether both have modules or parameters in common.

    Returns:
        A copy; the teacher itself where it is shared out already, or where there is one process.

    Raises:
        ModelError: it can't be shared out.
    """
    kind = author_class(inside(teacher)).__name__
    if sharded(teacher):
        logger.info("%s: the teacher %s is shared out already, and stays as it is", _KEY, kind)
        return teacher
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        logger.info("%s: one process is running, so the teacher %s stays whole; torchrun starts several", _KEY, kind)
        return teacher
    if shares:
        raise ModelError(f"{_KEY}: the teacher {kind} has weights that are the student's too. Leave sharded out")
    if compiled_parts(teacher):
        raise ModelError(f"{_KEY}: the teacher {kind} is compiled. Set it as it was, and write compile: true")
    mesh = ranks_mesh(student)
    first = next((one.device for one in teacher.parameters()), torch.device("cpu"))
    if first.type != "cpu":
        logger.info(
            "%s: the whole teacher %s stays on %s as well; on the CPU it costs no memory there", _KEY, kind, first
        )
    return sharded_copy(teacher, mesh).eval()


def ranks_mesh(student: nn.Module) -> Any:
    """The mesh of the ranks that train a student: that of its shards, of its DistributedDataParallel, or of all."""
    mesh = data_mesh(student)
    if mesh is not None and mesh.size() > 1:
        return mesh
    device = next((one.device for one in student.parameters()), torch.device("cpu"))
    group = process_group(student, living(DistributedDataParallel))
    if group is None or group is dist.group.WORLD or group.size() == dist.get_world_size():
        return data_ranks(device)
    from torch.distributed.device_mesh import DeviceMesh

    return DeviceMesh.from_group(group, device.type)


def check_mesh(teacher: nn.Module, student: nn.Module) -> None:
    """ModelError where a teacher's user has shared it out over ranks that don't train the student with this one."""
    mesh = data_mesh(teacher)
    if mesh is None:
        return
    kind, theirs = author_class(inside(teacher)).__name__, ranks_of(mesh)
    if mesh.get_coordinate() is None:
        raise ModelError(
            f"the teacher {kind} is shared out over ranks {_list(theirs)}, and this is rank {dist.get_rank()}: it has "
            "no part of it. Shard the teacher over the ranks that train the student"
        )
    group = process_group(student, living(DistributedDataParallel))
    ours = None if group is None else dist.get_process_group_ranks(group)
    if ours is not None and (more := [rank for rank in theirs if rank not in ours]):
        raise ModelError(
            f"the teacher {kind} is shared out over ranks {_list(theirs)}, and the student is trained by ranks "
            f"{_list(ours)}: without {_list(more)} the teacher's forward would wait for ever. Shard the teacher over "
            "the ranks that train the student"
        )


def _list(ranks: Iterable[int]) -> str:
    return ", ".join(map(str, ranks))


class Company:
    """The ranks that run a teacher's forwards together.

    Args:
        mesh: over which it is shared out.
    """

    def __init__(self, mesh: Any) -> None:
        self._group, self._device = group_of(mesh), torch.device(mesh.device_type)
        if self._device.type == "cuda":
            self._device = torch.device("cuda", torch.cuda.current_device())

    def worst(self, mine: int) -> int:
        """The largest of all ranks' numbers; waits for all of them."""
        if self._group is None:
            return mine
        number: Tensor = torch.tensor(mine, device=self._device)
        dist.all_reduce(number, dist.ReduceOp.MAX, group=self._group)
        return int(number)


def company_of(model: nn.Module) -> Company | None:
    """The ranks that run a sharded model together, or None."""
    mesh = data_mesh(model) if is_sharded(model) else None
    return None if mesh is None or mesh.size() == 1 else Company(mesh)
