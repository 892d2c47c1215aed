"""What ``auto`` becomes: how a teacher runs, chosen once, on rank 0, by timing the first batch.

Rules: candidates are tried best-first; a candidate that is clearly behind runs twice, the others three times, so four
candidates cost at most twelve forwards, of a quarter of a large batch. Nothing is timed where there is nothing to
choose. Low precision is tried only where the device computes in it by itself, and fp16 never on a CPU. Every rank gets
the choice of rank 0, so where ``auto`` stands all ranks must run their teacher for the first time at the same step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdhooks.config.model import TeacherSettings
from kdhooks.messages import logger
from kdhooks.speed import Choice, Precision
from kdhooks.torch.outputs import map_tensors
from kdhooks.torch.teacher_copies import has_maps

__all__ = ["Choice", "agreed", "candidates", "completed", "has_auto", "quickest", "some_rows"]

_OWN: dict[torch.dtype, Precision] = {torch.bfloat16: "bf16", torch.float16: "fp16"}
_CODES: tuple[Precision | None, ...] = (None, "fp32", "bf16", "fp16")
_BEHIND = 1.25
"""A candidate that takes so many times as long as the best is not timed a second time."""
_LESS_WORK = 1.2
"""A further way does less work, which a part of a batch hardly shows: it is left only where so far behind."""
_PART, _FEWEST = 4, 16
"""A quarter of a batch is timed, where that is so many rows."""
_SLOW = 1.0
"""Seconds; what takes longer is timed once."""


def has_auto(asked: TeacherSettings) -> bool:
    """Whether something is left to a choice."""
    return "auto" in (asked.precision, asked.channels_last, asked.ipex)


def completed(asked: TeacherSettings, choice: Choice) -> Choice:
    """What is asked for, and in what is left to ``auto`` the choice."""
    return Choice(
        choice.precision if asked.precision == "auto" else asked.precision,
        choice.channels_last if asked.channels_last == "auto" else asked.channels_last,
        asked.compile,
        choice.ipex if asked.ipex == "auto" else asked.ipex,
        choice.folded and asked.precision == "auto" and not asked.compile,
    )


def candidates(asked: TeacherSettings, model: nn.Module, *, ipex: bool = False) -> list[Choice]:
    """The ways to run a model that come into question, the one that is likely to be quickest first.

    Args:
        asked: what the configuration says.
        model: the teacher.
        ipex: whether Intel's extension can run it.
    """
    precisions: list[Any] = _precisions(model) if asked.precision == "auto" else [asked.precision]
    orders: list[Any] = [asked.channels_last]
    if asked.channels_last == "auto":
        orders = [True, False] if has_maps(model) else [False]
    found = [Choice(precision, order, asked.compile) for precision, order in product(precisions, orders)]
    if not ipex or asked.ipex is False:
        return found
    last = asked.channels_last is True  # the extension has a format of its own
    fast = [Choice(precision, last, ipex=True) for precision in precisions if precision != "fp16"]
    return fast if asked.ipex is True else [*fast, *found]


def _precisions(model: nn.Module) -> list[Precision]:
    """Those to try: of a model whose weights are in a low precision already, that one alone."""
    floats = [parameter for parameter in model.parameters() if parameter.is_floating_point()]
    own = _OWN.get(floats[0].dtype) if floats else None
    if own is not None:
        return [own]
    low = low_precision(floats[0].device) if floats else None
    return ["fp32"] if low is None else [low, "fp32"]


def low_precision(device: torch.device) -> Precision | None:
    """The low precision in which a device computes by itself, or None."""
    if device.type == "cpu":
        return "bf16" if _cpu_computes_bf16() else None
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    supported = getattr(getattr(torch, device.type, None), "is_bf16_supported", None)
    return "bf16" if supported is not None and supported() else None


def _cpu_computes_bf16() -> bool:
    """Whether the processor has instructions for bf16; elsewhere it is converted to and fro, and slower."""
    x86 = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    if any(getattr(torch.cpu, name, bool)() for name in x86):
        return True
    capabilities: dict[str, Any] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # torch 2.10 knows other processors as well
    return bool(capabilities.get("bf16", False))


def quickest(
    found: list[Choice],
    ready: Callable[[Choice], Callable[[], object]],
    kind: str,
    further: Callable[[Choice], list[Choice]] = lambda _: [],
    on: str = "the first batch",
) -> Choice:
    """The candidate whose forward takes the least time; says so in one line.

    Args:
        found: the candidates, the likeliest first.
        ready: makes a candidate's forward.
        kind: names the teacher in the message.
        further: the quickest one in ways of less work, tried after it and taken unless they are clearly slower.
        on: what they are timed on, for the message.
    """
    if len(found) == 1 and not further(found[0]):
        logger.info("the teacher %s runs in %s: there is nothing else to choose from here", kind, found[0])
        return found[0]
    seconds = _seconds(found, ready, kind, {})
    if not seconds:  # the step's own forward shall raise it
        return found[-1]
    best = _least(seconds)
    more = further(best)
    seconds = _seconds(more, ready, kind, seconds)
    best = next((one for one in more if seconds.get(one, float("inf")) < _LESS_WORK * seconds[best]), best)
    others = "; ".join(f"{choice}: {1000 * spent:.1f} ms" for choice, spent in seconds.items() if choice != best)
    spent = 1000 * seconds[best]
    logger.info("the teacher %s runs in %s: %.1f ms for %s (%s)", kind, best, spent, on, others)
    return best


def _seconds(
    found: list[Choice], ready: Callable[[Choice], Callable[[], object]], kind: str, known: dict[Choice, float]
) -> dict[Choice, float]:
    """What is known, and the seconds of more candidates; one that can't run is left out."""
    seconds = dict(known)
    for choice in found:
        try:
            seconds[choice] = _time(ready(choice), min(seconds.values(), default=float("inf")))
        except Exception as error:  # a model that can't run in one of them can in another
            logger.debug("the teacher %s can't run in %s: %s", kind, choice, error)
    return seconds


def _least(seconds: dict[Choice, float]) -> Choice:
    return min(seconds, key=lambda choice: seconds[choice])


def _time(forward: Callable[[], object], best: float) -> float:
    """The seconds of a forward, after one that is not counted."""
    forward()
    first = _once(forward)
    return first if first > _BEHIND * best or first > _SLOW else min(first, _once(forward))


def _once(forward: Callable[[], object]) -> float:
    _finish()
    start = time.perf_counter()
    forward()
    _finish()
    return time.perf_counter() - start


def _finish() -> None:
    """Wait for the accelerator, where this process uses one; asking one that it doesn't use would wake it."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is not None and getattr(getattr(torch, accelerator.type), "is_initialized", lambda: True)():
        torch.accelerator.synchronize()


def some_rows(value: Any) -> tuple[Any, str]:
    """A part of a large batch, which shows in less time which way is quickest, and its name in words."""
    sizes: set[int] = set()

    def look(tensor: Tensor) -> Tensor:
        sizes.add(len(tensor) if tensor.ndim else 0)
        return tensor

    map_tensors(look, value)
    rows = max(sizes, default=0) // _PART
    if len(sizes) != 1 or rows < _FEWEST:
        return value, "the first batch"
    return map_tensors(lambda tensor: tensor[:rows], value), f"{rows} rows of the first batch"


def agreed(choose: Callable[[], Choice]) -> Choice:
    """What rank 0 chooses, on every rank; alone, what this process does."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return choose()
    group: Any = dist.new_group(backend="gloo")  # never waits for the accelerator
    row = torch.zeros(5, dtype=torch.int64)
    try:
        if dist.get_rank() == 0:
            choice = choose()
            flags = [choice.channels_last, choice.compile, choice.ipex, choice.folded]
            row = torch.tensor([_CODES.index(choice.precision), *map(int, flags)])
    finally:  # the others wait for it even where choosing failed
        dist.broadcast(row, 0, group=group)
        dist.destroy_process_group(group)
    precision, *found = row.tolist()
    return Choice(_CODES[precision], *map(bool, found))
