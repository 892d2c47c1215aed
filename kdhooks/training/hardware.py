"""Where the training runs, and in which precision: the older Lightning's words in those of Lightning 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from kdhooks.errors import UsageError
from kdhooks.messages import logger
from kdhooks.names import did_you_mean
from kdhooks.torch.teacher_choice import low_precision

DEVICES = ("cpu", "gpu", "cuda", "mps", "auto")
"""What may be asked for as a kind of device."""

SPREAD = ("ddp", "ddp_cpu")
"""What may be asked for as a way to spread over processes."""

_GONE = {
    "dp": "DataParallel is gone from Lightning 2. Write accelerator='ddp', which trains the same with a process a GPU",
    "ddp2": "it is gone from Lightning 2. Write accelerator='ddp'",
    "horovod": "it is gone from Lightning 2. Write accelerator='ddp'",
    "ddp_spawn": "its processes would keep the trained student to themselves. Write accelerator='ddp'",
    "ddp_sharded": "it is gone from Lightning 2. Shard with kdhooks.Distillation in a training of your own",
    "fsdp": "this loop does not shard. Shard with kdhooks.Distillation in a training of your own",
    "deepspeed": "this loop does not shard. Shard with kdhooks.Distillation in a training of your own",
}

PRECISIONS: dict[str, str] = {
    "16": "16-mixed",
    "16-mixed": "16-mixed",
    "bf16": "bf16-mixed",
    "bf16-mixed": "bf16-mixed",
    "32": "32-true",
    "32-true": "32-true",
    "64": "64-true",
    "64-true": "64-true",
}
"""Lightning's words, by what may be asked for."""

_IN_WORDS = {"bf16-mixed": "bf16", "32-true": "32 bit", "16-mixed": "16 bit"}


@dataclass(frozen=True)
class Hardware:
    """What Lightning's Trainer is told.

    Attributes:
        accelerator: ``cpu``, ``cuda`` or ``mps``.
        devices: how many on each node; on a CPU how many processes.
        strategy: ``auto`` for one process, else the name of DDP.
        num_nodes: how many machines.
        precision: in Lightning's words.
    """

    accelerator: str
    devices: int
    strategy: str
    num_nodes: int
    precision: str

    def trainer_arguments(self) -> dict[str, Any]:
        """The keyword arguments of the Trainer."""
        names = ("accelerator", "devices", "strategy", "num_nodes", "precision")
        return {name: getattr(self, name) for name in names}


def find_hardware(
    *, num_gpu_used: Any, num_processes: int, accelerator: Any, num_nodes: int, precision: Any
) -> Hardware:
    """What the arguments mean on this machine; see `KnowledgeDistillationTraining`.

    Raises:
        UsageError: more devices than there are, a name that is unknown or gone, or arguments that contradict.
    """
    if accelerator is not None and accelerator not in (*DEVICES, *SPREAD):
        raise UsageError(f"accelerator: {_unknown(accelerator)}")
    if not isinstance(num_gpu_used, int) or isinstance(num_gpu_used, bool) or num_gpu_used < -1:
        raise UsageError(f"num_gpu_used must be a whole number from 0 on, or -1 for all, not {num_gpu_used!r}")
    if str(precision) not in PRECISIONS or isinstance(precision, bool):
        known = ", ".join(PRECISIONS)
        raise UsageError(f"precision must be 16 or 32, or one of Lightning's words, not {precision!r}. Known: {known}")
    kind = _kind(num_gpu_used, accelerator)
    devices = num_processes if kind == "cpu" else _gpus(kind, num_gpu_used)
    if kind != "cpu" and num_processes > 1:
        raise UsageError("num_processes counts processes on the CPU; with GPUs num_gpu_used is what counts")
    several = devices * num_nodes > 1 or accelerator in SPREAD
    # a coefficient of 0 may leave a part of the student unused, as the older Lightning took for granted
    strategy = "ddp_find_unused_parameters_true" if several else "auto"
    return Hardware(kind, devices, strategy, num_nodes, nearest_precision(PRECISIONS[str(precision)], kind))


def _unknown(accelerator: Any) -> str:
    if accelerator in _GONE:
        return f"{accelerator!r} can't be had: {_GONE[accelerator]}"
    names = [*DEVICES, *SPREAD]
    hint = (
        did_you_mean(accelerator, names, what="Known") if isinstance(accelerator, str) else f"Known: {', '.join(names)}"
    )
    return f"there is no {accelerator!r}. {hint}"


def _kind(num_gpu_used: int, accelerator: str | None) -> str:
    found = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else None
    if accelerator in ("cpu", "ddp_cpu"):
        if num_gpu_used:
            raise UsageError(f"accelerator={accelerator!r} trains on the CPU, and num_gpu_used is {num_gpu_used}")
        return "cpu"
    if accelerator in ("cuda", "mps") and accelerator != found:
        raise UsageError(f"accelerator={accelerator!r}: torch finds no such device on this machine")
    if num_gpu_used or accelerator in ("gpu", "cuda", "mps"):
        if found is None:
            asked = f"num_gpu_used is {num_gpu_used}" if num_gpu_used else f"accelerator is {accelerator!r}"
            raise UsageError(f"{asked}, and torch finds no GPU on this machine: num_gpu_used=0 trains on the CPU")
        return found
    return found if accelerator == "auto" and found is not None else "cpu"


def _gpus(kind: str, wanted: int) -> int:
    there = torch.cuda.device_count() if kind == "cuda" else 1
    if wanted > there:
        devices = f"{there} {kind} device{'' if there == 1 else 's'}"
        raise UsageError(f"num_gpu_used is {wanted}, and torch finds {devices} on this machine")
    return there if wanted == -1 else max(1, wanted)


def nearest_precision(wanted: str, kind: str) -> str:
    """The precision that the device computes in and that is nearest to what is asked for; says so where they differ.

    Args:
        wanted: in Lightning's words.
        kind: of the device.
    """
    if wanted not in ("16-mixed", "bf16-mixed"):
        return wanted
    low = low_precision(torch.device(kind))
    if kind == "cuda":
        chosen = "16-mixed" if low == "fp16" else wanted
    else:  # 16 bit would need a scaler that these have not
        chosen = "bf16-mixed" if low == "bf16" else "32-true"
    if chosen != wanted:
        device = {"cpu": "this processor", "mps": "this GPU", "cuda": "this GPU"}[kind]
        words = {"16-mixed": "16 bit", "bf16-mixed": "bf16"}[wanted]
        logger.info("precision: %s does not train in %s, so it trains in %s", device, words, _IN_WORDS[chosen])
    return chosen
