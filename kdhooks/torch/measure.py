"""What a model costs: `kdhooks.backend.Backend.measure` for PyTorch.

Rules: the model is measured as it stands, on its own device, in evaluation mode and without a graph, and is afterwards
as it was: modes, flags, buffers, generators, threads. Not under ``inference_mode``: a module that keeps a tensor of a
forward (a table of positions, say) could then not be trained, and candidates are measured before they are trained.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.parameter import is_lazy

from kdhooks.config.model import ThreadSettings
from kdhooks.config.search_settings import MeasureSettings
from kdhooks.errors import KDHooksError, ModelError
from kdhooks.measurement import (
    DEFINITIONS,
    Measured,
    asked_metrics,
    batch_of,
    check_inputs,
    run_failed,
    seconds_of_runs,
)
from kdhooks.nests import is_array, map_leaves
from kdhooks.torch.evaluation import threads
from kdhooks.torch.macs import count_macs
from kdhooks.torch.observation.untouched import untouched
from kdhooks.torch.outputs import as_call
from kdhooks.torch.peak_memory import peak_bytes
from kdhooks.torch.placement import batch_mover
from kdhooks.torch.trials import wait_for
from kdhooks.torch.weights import write_weights
from kdhooks.torch.wrappers import inside


def measure(
    model: nn.Module, inputs: Any, names: Sequence[str], settings: MeasureSettings, backend: Any
) -> dict[str, Measured]:
    """The metrics by name, in the order of `names`; `kdhooks.measurement.DEFINITIONS` says what they are.

    Args:
        model: what of it is compiled runs compiled; of DistributedDataParallel the model inside is measured.
        inputs: one row or more, tensors or NumPy arrays in the form that the model takes; None where there are none.
        names: of metrics.
        settings: how.
        backend: keeps modes and the states of the generators.

    Raises:
        UsageError: an unknown metric, inputs that are needed and not there, or a device that can't be measured.
        ModelError: the model fails on the inputs, or its parameters are not there yet.
    """
    asked = asked_metrics(names)
    check_inputs(asked, inputs)
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        model = model.module
    used = ThreadSettings(intra_num_of_threads=settings.threads)
    with untouched([model], None, backend), backend.evaluation_mode(model), threads(used), torch.no_grad():
        lazy = any(is_lazy(parameter) for parameter in model.parameters())
        found: dict[str, Measured] = {}
        if any(DEFINITIONS[name].needs_inputs for name in asked) or (lazy and inputs is not None):
            found = _Runs(model, inputs, settings).measured(asked)
        elif lazy:
            raise ModelError(
                f"{type(model).__name__} has parameters without a shape yet: call it on a batch first, or set "
                "example_inputs"
            )
        if "parameters" in asked:
            found["parameters"] = Measured.exact(sum(parameter.numel() for parameter in model.parameters()))
        if "file_size" in asked:
            found["file_size"] = Measured.exact(_file_size(inside(model)))
        return {name: found[name] for name in asked}


class _Runs:
    """A model that is run in order to measure it.

    Args:
        model: in evaluation mode.
        inputs: of one row or more.
        settings: how many rows, and how often.
    """

    def __init__(self, model: nn.Module, inputs: Any, settings: MeasureSettings) -> None:
        tensors = [*model.parameters(), *model.buffers()]
        self._devices = list(dict.fromkeys(tensor.device for tensor in tensors)) or [torch.device("cpu")]
        self._model, self._settings = model, settings
        self._inputs = batch_mover(self._devices[0])(map_leaves(is_array, _as_tensor, inputs))
        self._args, self._kwargs = as_call(batch_of(self._inputs, settings.batch_size, torch.cat))

    def measured(self, asked: Sequence[str]) -> dict[str, Measured]:
        """Those of the metrics for which the model runs."""
        try:
            self._once()
        except Exception as error:  # whatever a foreign model makes of its inputs
            raise run_failed(self._model, self._kwargs or self._args, error) from error
        found = {}
        if {"latency", "throughput"} & set(asked):
            found["latency"] = Measured.of(self._seconds())
            found["throughput"] = found["latency"].rate(self._settings.batch_size)
        if "macs" in asked:
            found["macs"] = Measured.exact(self._macs())
        if "peak_memory" in asked:
            found["peak_memory"] = Measured.exact(peak_bytes(self._forward, self._devices))
        return found

    def _seconds(self) -> list[float]:
        warm_up, repeats = self._settings.warm_up, self._settings.repeats
        return seconds_of_runs(self._once, warm_up=warm_up, repeats=repeats, threads=torch.get_num_threads())

    def _once(self) -> None:
        """A forward, and its result is there."""
        self._forward()
        for device in self._devices:
            wait_for(device)

    def _forward(self) -> None:
        self._model(*self._args, **self._kwargs)

    def _macs(self) -> int:
        args, kwargs = as_call(batch_of(self._inputs, 1, torch.cat))
        try:
            return count_macs(self._model, args, kwargs)
        except Exception as error:  # one row may be too few for a model that ran on more
            raise run_failed(self._model, kwargs or args, error) from error


def _as_tensor(value: Any) -> Any:
    return torch.as_tensor(value) if isinstance(value, np.ndarray) else value


def _file_size(model: nn.Module) -> int:
    """Bytes of the file that a search keeps; it is written, since how its header is laid out is the format's affair."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        try:
            write_weights(model, path)
        except KDHooksError:
            raise
        except Exception as error:  # tensors that can't be written, or no room
            raise ModelError(f"the weights of {type(model).__name__} can't be written: {error}") from error
        return path.stat().st_size
