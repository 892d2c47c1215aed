"""Ranks that train one student together: what they have to agree on, said before the first step, not by a deadlock."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from kdhooks.errors import UsageError
from kdhooks.hooks import Hook
from kdhooks.torch.sharding import check_still_whole, data_mesh, gather_nothing, group_of, is_sharded

_OWN = (
    "device",
    "tuning.random_seed",
    "tuning.workspace",
    "tuning.resume",
    "tuning.tensorboard",
    "distillation.cache.path",
    "distillation.cache.size_bound",
)
"""What may be different on each rank."""


class Together(Hook):
    """Follows a run whose student several ranks train, as far as that is known when it begins.

    Args:
        distiller: the `Distillation`.
    """

    def __init__(self, distiller: Any) -> None:
        self._distiller = distiller
        self._student: nn.Module = distiller.student_model
        self._known: list[Any] | None = None

    def on_train_begin(self) -> None:
        """Compare the configurations of the ranks."""
        gather_nothing(self._student)
        self._known = list(self._student.parameters())
        group, device = _ranks_of(self._student)
        if group is not None:
            check_alike(self._distiller, group, device)

    def on_after_compute_loss(self) -> None:
        """Look once whether the student was sharded in the meantime."""
        known, self._known = self._known, None
        if known is not None:
            check_still_whole(self._student, known)


def _ranks_of(student: nn.Module) -> tuple[Any, str]:
    """The ranks that train a student, where it is sharded or in its DistributedDataParallel, and their device."""
    if isinstance(student, DistributedDataParallel):
        group: Any = student.process_group
        return (group if group.size() > 1 else None), next(student.parameters()).device.type
    mesh = data_mesh(student) if is_sharded(student) else None
    return (None, "cpu") if mesh is None else (group_of(mesh), mesh.device_type)


def check_alike(distiller: Any, group: Any, device: str, *, seed: bool = False) -> None:
    """UsageError on all ranks where the configuration of one is another than that of the first.

    Args:
        distiller: the `Distillation` of this rank.
        group: the ranks.
        device: the type of device that they exchange tensors on.
        seed: whether the seed has to be the same as well, since it decides which rows a rank gets.
    """
    mine = dict(_leaves(distiller.conf.settings, ""))
    for key in _OWN:
        if not (seed and key == "tuning.random_seed"):
            mine.pop(key, None)
    mine["criterion"] = ", ".join(type(one).__name__ for one in distiller.summed())
    mine["teacher_model"] = str(_names(distiller.teacher_model))
    mine["eval_func"] = "None" if distiller.eval_func is None else "set"
    found = _exchanged(mine, group, device)
    for rank, other in zip(dist.get_process_group_ranks(group), found, strict=True):
        for key in dict.fromkeys((*found[0], *other)):
            one, two = found[0].get(key, "nothing"), other.get(key, "nothing")
            if one != two:
                first = dist.get_global_rank(group, 0)
                raise UsageError(
                    f"the ranks that train together have different settings: {key} is {one} on rank {first} and {two} "
                    f"on rank {rank}. They would wait for each other for ever: give all the same"
                )


def _names(teachers: Any) -> list[str]:
    if teachers is None:
        return []
    if isinstance(teachers, Mapping):
        return list(map(str, teachers))
    return [type(one).__name__ for one in (teachers if isinstance(teachers, (list, tuple)) else [teachers])]


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str]]:
    """The leaves of settings by their path, as text; of objects without a text of their own the class."""
    if is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from _leaves(getattr(value, field.name), f"{path}.{field.name}".lstrip("."))
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _leaves(item, f"{path}.{key}")
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from _leaves(item, f"{path}[{index}]")
    else:
        plain = value is None or isinstance(value, (bool, int, float, str))
        yield path, repr(value) if plain else type(value).__name__


def _exchanged(mine: Mapping[str, str], group: Any, device: str) -> list[dict[str, str]]:
    """What every rank has, in their order, as bytes of JSON."""
    where = torch.device(device) if device == "cpu" else torch.device(device, torch.cuda.current_device())
    content = torch.frombuffer(bytearray(json.dumps(mine).encode()), dtype=torch.uint8).to(where)
    sizes = [torch.zeros((), dtype=torch.int64, device=where) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, torch.tensor(len(content), device=where), group=group)
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8, device=where)
    padded[: len(content)] = content
    received = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(received, padded, group=group)
    return [json.loads(one[: int(size)].cpu().numpy().tobytes()) for one, size in zip(received, sizes, strict=True)]
