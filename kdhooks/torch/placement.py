"""Where the built-in loop trains, in which precision, and how models and batches get there."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from kdhooks.config import DistillationConf
from kdhooks.errors import UsageError
from kdhooks.torch.outputs import map_tensors, moved
from kdhooks.torch.sharding import bad_parts, gather_nothing

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
"""What autocast computes in, by the configuration's names."""


def training_device(conf: DistillationConf, student: nn.Module) -> torch.device:
    """The device that ``device`` of the configuration means for this student.

    ``auto`` leaves a student on the accelerator where its user put it, and otherwise takes CUDA, MPS or the CPU,
    whichever is there first.

    Raises:
        ConfigError: this machine has no such device.
    """
    wanted = conf.settings.device
    present = _devices(student)
    if wanted == "auto" and any(device.type != "cpu" for device in present):
        return present[0]
    accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    if wanted in ("auto", "gpu"):
        if accelerator is None and wanted == "gpu":
            raise conf.problem("device", "this machine has no GPU that torch can use", "Write device: auto.")
        wanted = accelerator or "cpu"
    device = torch.device(wanted)
    count = {"cuda": torch.cuda.device_count(), "mps": int(accelerator == "mps")}.get(device.type, 1)
    if (device.index or 0) >= count:
        found = f"torch finds {count} {device.type} devices"
        raise conf.problem("device", f"there is no device {wanted!r}: {found}", "Write device: auto.")
    if wanted == "cuda":
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
    return device


def place(
    student: nn.Module, teachers: Iterable[nn.Module], device: torch.device, *, student_stays: bool = False
) -> None:
    """Move the student to a device, and with it the teachers that stand on the CPU beside it.

    Args:
        student: the student.
        teachers: those that go with it.
        device: where it trains.
        student_stays: whether another model is trained there in its place.

    Models that are spread over several devices stay as they are, and so does a teacher that its user put on an
    accelerator: inputs are moved to it.
    """
    both = _devices(student) == [torch.device("cpu")]
    for teacher in teachers:
        if both and _devices(teacher) == [torch.device("cpu")]:
            teacher.to(device)
    if len(_devices(student)) <= 1 and not student_stays:
        student.to(device)


def _devices(model: nn.Module) -> list[torch.device]:
    return list(dict.fromkeys(tensor.device for tensor in (*model.parameters(), *model.buffers())))


def batch_mover(device: torch.device) -> Callable[[Any], Any]:
    """A function that puts every tensor of a nest on a device, without waiting where the memory is pinned."""
    move = moved(device, None)
    return lambda nest: map_tensors(move, nest)


def autocast(precision: Literal["fp32", "bf16", "fp16"] | None, device: torch.device) -> AbstractContextManager[Any]:
    """The student's autocast; None leaves what surrounds the call."""
    if precision is None:
        return nullcontext()
    return torch.autocast(device.type, DTYPES.get(precision), enabled=precision in DTYPES)


def gradient_scaler(
    precision: Literal["fp32", "bf16", "fp16"] | None, device: torch.device, optimizer: Any
) -> torch.amp.GradScaler:
    """The scaler that fp16 needs; for all else one that does nothing.

    Raises:
        UsageError: fp16 with an optimizer that evaluates the loss by itself.
    """
    if precision == "fp16" and needs_closure(optimizer):
        raise UsageError("LBFGS can't be used with precision: fp16, whose gradients must be unscaled. Use bf16.")
    return torch.amp.GradScaler(device.type, enabled=precision == "fp16")


def needs_closure(optimizer: Any) -> bool:
    """Whether an optimizer's step evaluates the loss itself, as often as it wants."""
    return isinstance(optimizer, torch.optim.LBFGS)


def non_finite_parameter(model: nn.Module) -> str | None:
    """The name of a parameter that holds NaN or infinity, or None; waits for the device once."""
    gather_nothing(model)
    named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.is_floating_point()]
    if not named:
        return None
    found = list(bad_parts(named))
    bad = torch.stack([is_bad.to(found[0][1].device) for _, is_bad in found]).tolist()
    return next((name for (name, _), is_bad in zip(found, bad, strict=True) if is_bad), None)


def data_seed(conf: DistillationConf) -> int:
    """The seed of the data's order: the configuration's, or what torch was seeded with last."""
    seed = conf.settings.tuning.random_seed
    return torch.initial_seed() % 2**63 if seed is None else seed


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
