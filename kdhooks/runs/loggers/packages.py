"""Imports the loggers' own packages without what they do by themselves: telemetry, patches of other modules."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from kdhooks.errors import MissingPackageError


def imported(module: str, package: str, purpose: str, **environment: str) -> Any:
    """A module, imported with these variables where it is not loaded yet; what the user has set stays.

    The variables are set for a loaded one too, since a package may read them later.

    Raises:
        MissingPackageError: the package is not installed.
    """
    for name, value in environment.items():
        os.environ.setdefault(name, value)
    if module in sys.modules and sys.modules[module] is not None:
        return sys.modules[module]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the package's own imports; nothing a user of ours could change
            return import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError) and error.name not in (None, module.split(".")[0]):
            raise
        raise MissingPackageError(package, purpose, "loggers") from None


@contextmanager
def quiet() -> Iterator[None]:
    """Within the block the package's own warnings, of deprecations in its own calls, are not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
