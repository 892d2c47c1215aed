"""Repeated runs of one thing, timed so that what else the machine does counts as little as can be."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kdhooks.errors import KDHooksError, ModelError


def seconds_of_runs(
    once: Callable[[], object], *, warm_up: int, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """The seconds of each of `repeats` runs, after `warm_up` that don't count.

    Python's garbage collector runs before and not in between: its pauses come when other objects of the program call
    for them.

    Args:
        once: one run, which ends when its result is there.
        warm_up: runs that fill caches, choose kernels and compile.
        repeats: runs that are timed.
        clock: seconds that only grow.
    """
    for _ in range(warm_up):
        once()
    seconds = []
    with without_collection():
        for _ in range(repeats):
            begun = clock()
            once()
            seconds.append(clock() - begun)
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
    if isinstance(error, KDHooksError):
        reason = str(error)
    else:
        reason = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}".rstrip(": ")
    return ModelError(f"{type(model).__name__} can't be measured: it failed on {described(inputs)}: {reason}")


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
