"""The most memory that a forward takes at once, beside what was there before.

Rules: what counts is what torch's allocators give out, temporaries inside of operations and the output included. What
libraries allocate by themselves (buffers of MKL and oneDNN, workspaces outside of torch's allocator, CUDA graphs) is
not seen. On a CPU the profiler tells of every block that is taken and given back, in order: the process's own size
says nothing, since freed blocks stay in it. On CUDA the allocator keeps the peak itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from kdhooks.errors import UsageError


def peak_bytes(once: Callable[[], object], devices: Iterable[torch.device]) -> int:
    """The peak of the additional memory of one forward, in bytes, summed over its devices.

    Args:
        once: one forward without a graph, whose result it lets go of.
        devices: where the model and its inputs are. The statistics of peaks of CUDA devices begin anew.

    Raises:
        UsageError: one of them does not tell of its memory, or torch's profiler runs already.
    """
    kinds = {device.type for device in devices}
    if kinds == {"cpu"}:
        return _on_cpu(once)
    if kinds <= {"cpu", "cuda"}:
        return _on_cuda(once, [device for device in devices if device.type == "cuda"])
    raise UsageError(f"peak_memory can't be measured on {', '.join(sorted(kinds))}: it can on a CPU and on CUDA")


def _on_cuda(once: Callable[[], object], devices: Iterable[torch.device]) -> int:
    before = {}
    for device in devices:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before[device] = torch.cuda.memory_allocated(device)
    once()
    for device in before:
        torch.cuda.synchronize(device)
    return sum(torch.cuda.max_memory_allocated(device) - held for device, held in before.items())


def _on_cpu(once: Callable[[], object]) -> int:
    if torch._C._autograd._profiler_enabled():  # which would be ended with ours
        raise UsageError("peak_memory needs torch's profiler, which can't run twice at once: end the other one first")
    with _without_notices(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        once()
    return peak_of((event.start_ns(), event.nbytes()) for event in _events(profiler) if event.name() == "[memory]")


@contextmanager
def _without_notices() -> Iterator[None]:
    """The profiler says on stderr when it begins and ends, unless its first use in a process finds this variable."""
    name = "KINETO_LOG_LEVEL"
    if name in os.environ:
        yield
        return
    os.environ[name] = "6"
    try:
        yield
    finally:
        del os.environ[name]


def _events(profiler: Any) -> Any:
    return profiler.profiler.kineto_results.events()


def peak_of(changes: Iterable[tuple[int, int]]) -> int:
    """The highest sum of changes in bytes, each with its moment; at least 0.

    >>> peak_of([(1, 100), (3, -100), (2, 50), (4, 20)])
    150
    """
    ordered = sorted(changes, key=lambda change: change[0])
    return max(accumulate((size for _, size in ordered), initial=0))
