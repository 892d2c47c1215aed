"""Measured metrics for a search and for users: what a model costs, on which inputs.

Definitions and units are those of `kdhooks.measurement`; the backend of the model measures.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kdhooks.backend import Backend, backend_of
from kdhooks.config import DistillationConf
from kdhooks.config.search_settings import MEASURED, MeasureSettings
from kdhooks.errors import UsageError
from kdhooks.measurement import DEFINITIONS, Definition, Measured, batch_of, check_inputs, shown

__all__ = ["DEFINITIONS", "Definition", "Measured", "batch_of", "check_inputs", "inputs_for", "measure", "shown"]


def measure(
    model: Any,
    inputs: Any = None,
    metrics: Iterable[str] = tuple(MEASURED),
    *,
    batch_size: int = 1,
    warm_up: int = 5,
    repeats: int = 30,
    threads: int | None = None,
) -> dict[str, Measured]:
    """What a model costs, measured on the model itself; it is afterwards as it was.

    Args:
        model: of PyTorch or Keras.
        inputs: the model's inputs for one row or more: a tensor, or a tuple or mapping of tensors. Their first rows
            are taken, and again and again where they are fewer than `batch_size`. None where no metric needs them.
        metrics: names of `DEFINITIONS`.
        batch_size: rows of the batch that latency, throughput and peak_memory are measured on.
        warm_up: runs that don't count.
        repeats: runs that do.
        threads: that the framework computes with meanwhile; None leaves them.

    Returns:
        The metrics by name, in the order in which they were asked for. Latency in seconds for a batch, throughput in
        rows a second, both with quartiles; parameters and macs (multiply-accumulates for one row) as numbers;
        file_size and peak_memory in bytes.

    Raises:
        UsageError: an unknown metric, inputs that are needed and not given, or a number below 1.
        ModelError: the model fails on the inputs.

    Example:
        >>> import torch
        >>> costs = measure(torch.nn.Linear(20, 3), torch.zeros(1, 20), ["parameters", "macs"])
        >>> {name: shown(name, cost) for name, cost in costs.items()}
        {'parameters': '63', 'macs': '60 MACs'}
    """
    numbers = {"batch_size": batch_size, "repeats": repeats, **({} if threads is None else {"threads": threads})}
    for name, number in numbers.items():
        if not _is_whole(number) or number < 1:
            raise UsageError(f"{name} must be a whole number of at least 1, not {number!r}")
    if not _is_whole(warm_up) or warm_up < 0:
        raise UsageError(f"warm_up must be a whole number of at least 0, not {warm_up!r}")
    asked = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    settings = MeasureSettings(batch_size, warm_up, repeats, threads)
    return dict(backend_of(model).measure(model, inputs, asked, settings))


def inputs_for(backend: Backend, conf: DistillationConf, example_inputs: Any = None, *dataloaders: Any) -> Any:
    """The inputs that candidates are measured on: ``example_inputs``, or those of the first batch of a loader.

    Args:
        backend: of the candidates.
        conf: says what is what in a batch.
        example_inputs: what the user has set, or None.
        dataloaders: loaders or `DataloaderSettings`, the first that is there is looked at; None is none.

    Returns:
        None where there is nothing of all this.

    Raises:
        UsageError: the loader is an iterator, whose batch would be lost.
        DataError: a batch has a form that `fit()` would not take either.
    """
    if example_inputs is not None:
        return example_inputs
    present = [loader for loader in dataloaders if loader is not None]
    return backend.first_inputs(present[0], conf) if present else None


def _is_whole(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool)
