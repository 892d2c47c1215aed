"""Ways of running a model that are tried and timed, so that the fastest can be taken.

Rules: what is tried is a copy of the model; nothing of the user's is run. Timing is bounded: a way runs at most
`PASSES` times, and one that is far behind after its first measured pass only twice. A way that fails is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from kdhooks.speed import Precision

PASSES = 3
"""Passes of one way at most: one to warm up, two that are measured."""

_BEHIND = 1.5
"""A way this many times slower than the fastest is not measured again."""

_WORTH = 0.97
"""A later, less plain way must take at most this share of an earlier one's time."""

_CPU_FLAGS = frozenset({"amx_bf16", "avx512_bf16", "bf16"})  # the last is Arm's

Way = TypeVar("Way")


def native_precisions(device: torch.device) -> tuple[Precision, ...]:
    """The precisions that a device computes in without emulation, the plainest first."""
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        native = device.type == "cpu" and bool(_CPU_FLAGS & processor_flags())
    return ("fp32", "bf16") if native else ("fp32",)


@cache
def processor_flags() -> frozenset[str]:
    """What the processor can do, in Linux' words; empty where the system doesn't say."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return frozenset()
    named = (line.partition(":") for line in lines)
    return next((frozenset(f.split()) for name, _, f in named if name.strip() in ("flags", "Features")), frozenset())


def has_maps(model: nn.Module, inputs: list[Tensor]) -> bool:
    """Whether channels last can mean anything: 2-D convolutions, and an input [N, C, H, W]."""
    convolutions = (nn.Conv2d, nn.ConvTranspose2d)
    return any(map_.ndim == 4 for map_ in inputs) and any(isinstance(one, convolutions) for one in model.modules())


def time_in_turn(ways: Mapping[Way, Callable[[], None]], device: torch.device) -> dict[Way, float]:
    """Seconds that one pass of each way takes: the shorter of two, in turn; ways that fail are left out.

    Args:
        ways: the passes, the plainest first.
        device: which is waited for.
    """
    best: dict[Way, float] = {}
    for number in range(PASSES):
        shortest = min(best.values(), default=0.0)
        for way, once in ways.items():
            if number and (way not in best or (number > 1 and best[way] > _BEHIND * shortest)):
                continue
            try:
                seconds = _timed(once, device)
            except (RuntimeError, TypeError, ValueError):  # an operation that has no such kernel, or no memory for it
                best.pop(way, None)
                continue
            best[way] = seconds if number < 2 else min(seconds, best[way])  # the first pass only warms up
    return best


def fastest(seconds: Mapping[Way, float]) -> Way:
    """The first of the ways that none of the others beats by more than what a machine's noise may be."""
    chosen, *others = seconds
    for way in others:
        if seconds[way] < _WORTH * seconds[chosen]:
            chosen = way
    return chosen


def _timed(once: Callable[[], None], device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    once()
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
