"""Intel Extension for PyTorch: whether it can be used here, and how it is loaded.

Rules: nothing is imported before somebody asks for it, since importing it replaces kernels of torch for the whole
process. An extension for another torch is never imported: it would print, and then fail on a mistake of its own.
What its import does to Python's logging is undone.
"""

from __future__ import annotations

import importlib
import io
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib import metadata
from typing import Any

import torch
from torch import nn

from kdhooks.config import DistillationConf
from kdhooks.errors import KDHooksError

_PACKAGE = "intel-extension-for-pytorch"
_ADVICE = (
    "Install it with pip install 'kdhooks[ipex]' in an environment of its own, since it brings torch 2.8; "
    "or write ipex: auto."
)


def unusable() -> str | None:
    """Why the extension can't be used here, in words without a full stop; None where it can."""
    try:
        installed = metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        return f"Intel Extension for PyTorch ({_PACKAGE}) is not installed"
    wanted, found = (re.match(r"\d+\.\d+", one) for one in (installed, torch.__version__))
    if wanted is None or found is None or wanted[0] != found[0]:
        needs = wanted[0] if wanted is not None else installed
        there = torch.__version__
        return f"Intel Extension for PyTorch {installed} works with torch {needs} alone, and this is {there}"
    failure = _loaded()[1]
    return None if failure is None else f"Intel Extension for PyTorch {installed} can't be imported: {failure}"


def required(conf: DistillationConf, path: str) -> None:
    """Make sure that the extension is there, for an ``ipex: true`` at a path of the configuration.

    Raises:
        ConfigError: it can't be used, with the reason and the install line.
    """
    reason = unusable()
    if reason is not None:
        raise conf.problem(path, reason, _ADVICE)


def optimize(model: nn.Module, dtype: torch.dtype | None, **options: Any) -> Any:
    """``ipex.optimize`` on a model in place; what it only warns of on the way is not shown.

    Args:
        model: in eval mode for inference, in train mode with ``optimizer=`` for training.
        dtype: bfloat16, or None for full precision.
        options: of ``ipex.optimize``.

    Returns:
        What ``ipex.optimize`` returns: the model, or the model and the optimizer.
    """
    module, failure = _loaded()
    if module is None:
        raise KDHooksError(f"Intel Extension for PyTorch can't be imported: {failure}")
    quiet = logging.getLogger("IPEX")
    level = quiet.level
    quiet.setLevel(logging.ERROR)  # it says of every way to call it that it will go away
    try:
        return module.optimize(model, dtype=dtype, inplace=True, **options)
    finally:
        quiet.setLevel(level)


@cache
def _loaded() -> tuple[Any, str | None]:
    """The extension, or None and the reason."""
    with _logging_kept(), redirect_stdout(io.StringIO()):
        try:
            return importlib.import_module("intel_extension_for_pytorch"), None
        except Exception as error:  # whatever a binary for another machine fails with
            lines = str(error).strip().splitlines()
            return None, lines[0] if lines else type(error).__name__


@contextmanager
def _logging_kept() -> Iterator[None]:
    """Within the block the root logger may get handlers and loggers a class; afterwards they are as before."""
    root, kind = logging.getLogger(), logging.getLoggerClass()
    handlers = list(root.handlers)
    try:
        yield
    finally:
        root.handlers[:] = handlers
        logging.setLoggerClass(kind)
