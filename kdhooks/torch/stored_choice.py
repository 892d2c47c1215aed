"""The precision of a teacher whose outputs are stored: what ``auto`` became in an earlier run counts in this one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from kdhooks.ledger.machine import processor
from kdhooks.messages import logger
from kdhooks.speed import Choice
from kdhooks.stored.choices import KeptChoice
from kdhooks.torch.teacher import Teacher
from kdhooks.torch.teacher_choice import agreed, has_auto

_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}


def settled(teacher: Teacher, value: Any, kept: Callable[[], KeptChoice]) -> Choice:
    """How a teacher runs, decided before its first forward.

    Every rank takes part, and that of rank 0 counts, whatever stands in the stores of other machines.

    Args:
        teacher: which one.
        value: its input.
        kept: where the choice of earlier runs is.
    """
    if teacher.choice is not None or not has_auto(teacher._asked):
        return teacher.settle(value)
    place = kept()
    found = place.read()
    if _of_first_rank(found is not None):
        teacher.adopt(agreed(lambda: found or Choice()))
        logger.info("the teacher %s runs in %s, as an earlier run chose", type(teacher.model).__name__, teacher.choice)
    choice = teacher.settle(value)
    place.write(choice)
    return choice


def precision_in_effect(choice: Choice, teacher: Teacher, device: str) -> str:
    """The precision that a forward computes in: its own, that of the autocast around it, or that of its weights."""
    if choice.precision is not None:
        return choice.precision
    if torch.is_autocast_enabled(device):
        return _NAMES.get(torch.get_autocast_dtype(device), "fp32")
    floats = (one.dtype for one in teacher.model.parameters() if one.is_floating_point())
    return _NAMES.get(next(floats, torch.float32), "fp32")


def processor_of(device: torch.device) -> str:
    """The name of what a teacher runs on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"{device.type} {processor()}"


def _of_first_rank(flag: bool) -> bool:
    """What rank 0 says, on every rank."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return flag
    return agreed(lambda: Choice(compile=flag)).compile
