"""What Lightning changes of the process while it trains, and what is put back afterwards."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

_VARIABLES = ("CUBLAS_WORKSPACE_CONFIG", "HOROVOD_FUSION_THRESHOLD", "PL_GLOBAL_SEED", "PL_SEED_WORKERS")

# What Lightning says to somebody who writes the Trainer and the module himself.
_NOT_FOR_THE_USER = (
    "The '.*_dataloader' does not have many workers",
    "The number of training batches",
    "Checkpoint directory .* exists and is not empty",
    "find_unused_parameters=True was specified in DDP constructor",
    "You are trying to `self.log\\(\\)` but",
    "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
    "Trying to infer the `batch_size` from an ambiguous collection",
)


@contextmanager
def as_before() -> Iterator[None]:
    """Flags, variables of the environment and the handler of Ctrl-C are after the block as they were before it."""
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn = torch.backends.cudnn
    flags = (cudnn.deterministic, cudnn.benchmark)
    variables = {name: os.environ.get(name) for name in _VARIABLES}
    main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGINT) if main else None
    try:
        with warnings.catch_warnings():
            for message in _NOT_FOR_THE_USER:
                warnings.filterwarnings("ignore", message)
            yield
    except SystemExit as stop:  # Lightning's answer to Ctrl-C would end a notebook
        if isinstance(stop.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        cudnn.deterministic, cudnn.benchmark = flags
        for name, value in variables.items():
            os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)
        if handler is not None:
            signal.signal(signal.SIGINT, handler)


@contextmanager
def as_found(*models: nn.Module) -> Iterator[None]:
    """Modes, devices and dtypes of models are after the block as they were before it, and no gradient is left."""
    modes = [(module, module.training) for model in models for module in model.modules()]
    firsts = [next((one for one in model.parameters() if one.is_floating_point()), None) for model in models]
    places = [None if first is None else (first.device, first.dtype) for first in firsts]
    try:
        yield
    finally:
        for model, place in zip(models, places, strict=True):
            model.zero_grad(set_to_none=True)
            _put_back(model, place)
        for module, mode in modes:
            module.training = mode


def _put_back(model: nn.Module, place: tuple[torch.device, torch.dtype] | None) -> None:
    """Move a model where its first parameter was, if that was moved."""
    first = next((one for one in model.parameters() if one.is_floating_point()), None)
    if place is None or first is None:
        return
    device, dtype = place
    if first.device != device:
        model.to(device)
    if first.dtype != dtype:  # of precision 64
        model.to(dtype)
