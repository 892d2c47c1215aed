"""Ways of running a model that are tried and timed, so that the fastest can be taken.

Rules: what is tried is a copy of the model; nothing of the user's is run. Timing is bounded: a way runs at most
`PASSES` times, and one that is far behind after its first measured pass only twice. A way that fails is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import torch

from kdhooks.speed import Precision
from kdhooks.torch.teacher_choice import low_precision

PASSES = 3
"""Passes of one way at most: one to warm up, two that are measured."""

_BEHIND = 1.5
"""A way this many times slower than the fastest is not measured again."""

_WORTH = 0.97
"""A later, less plain way must take at most this share of an earlier one's time."""

Way = TypeVar("Way")


def native_precisions(device: torch.device) -> tuple[Precision, ...]:
    """The precisions that a device trains in by itself, the plainest first; fp16 needs a scaler and is never tried."""
    return ("fp32", "bf16") if low_precision(device) == "bf16" else ("fp32",)


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
    wait_for(device)
    began = time.perf_counter()
    once()
    wait_for(device)
    return time.perf_counter() - began


def wait_for(device: torch.device) -> None:
    """Wait until a device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
