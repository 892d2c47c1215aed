"""Repeated runs of one thing, timed so that what else the machine does counts as little as can be."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kdhooks.errors import KDHooksError, ModelError
from kdhooks.measurement.waiting import Waiting, own_seconds, processors


def seconds_of_runs(
    once: Callable[[], object],
    *,
    warm_up: int,
    repeats: int,
    threads: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> list[float]:
    """The seconds of each of `repeats` runs, after `warm_up` that don't count.

    Python's garbage collector runs before and not in between: its pauses come when other objects of the program call
    for them. Time in which a processor was asked for and another program had it is taken off, where the system tells.

    Args:
        once: one run, which ends when its result is there.
        warm_up: runs that fill caches, choose kernels and compile.
        repeats: runs that are timed.
        threads: that compute at the same time at most.
        clock: seconds that only grow.
    """
    for _ in range(warm_up):
        once()
    seconds = []
    with without_collection():
        waiting = Waiting()
        for _ in range(repeats):
            worked, begun = time.process_time(), clock()
            once()
            passed, worked = clock() - begun, time.process_time() - worked
            seconds.append(own_seconds(passed, worked, waiting.since(), min(threads, processors())))
    return seconds


@contextmanager
def without_collection() -> Iterator[None]:
    """Within the block Python's garbage collector waits; it is run before."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def run_failed(model: Any, inputs: Any, error: Exception) -> ModelError:
    """What to raise where a model could not be run on the inputs that it is measured on."""
    return ModelError(f"{type(model).__name__} can't be measured: it failed on {described(inputs)}: {reason_of(error)}")


def reason_of(error: Exception) -> str:
    """What an error says, in one line; one of ours as a whole. Keras puts a line of its own and colours around it."""
    if isinstance(error, KDHooksError):
        return str(error)
    lines = [line.strip() for line in re.sub(r"\x1b\[\d*m", "", str(error)).splitlines() if line.strip()]
    if len(lines) > 1 and lines[0].startswith("Exception encountered when calling"):
        lines = lines[1:]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def described(inputs: Any) -> str:
    """Inputs in a few words, with the shapes of their tensors.

    >>> import numpy as np
    >>> described({"x": np.zeros((1, 2)), "mask": None}), described((np.zeros(3), np.ones(2)))
    ('inputs x [1, 2], mask NoneType', 'inputs [3], [2]')
    """
    if isinstance(inputs, Mapping):
        return f"inputs {', '.join(f'{name} {_form(item)}' for name, item in inputs.items())}"
    if isinstance(inputs, (tuple, list)):
        return f"inputs {', '.join(map(_form, inputs))}"
    return f"an input {_form(inputs)}"


def _form(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return str(list(value.shape))
    return type(value).__name__
