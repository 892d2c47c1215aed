"""The loggers that a configuration asks for."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.errors import MissingPackageError
from kdhooks.runs.loggers.base import LoggerError, RunLogger
from kdhooks.runs.loggers.comet import CometLogger
from kdhooks.runs.loggers.event_files import EventFiles
from kdhooks.runs.loggers.mlflow_runs import MlflowLogger
from kdhooks.runs.loggers.wandb_runs import WandbLogger

_KINDS: dict[str, Callable[[Any], RunLogger]] = {"mlflow": MlflowLogger, "wandb": WandbLogger, "comet": CometLogger}


def configured_loggers(conf: DistillationConf, *, by_default: bool) -> list[RunLogger]:
    """The loggers of ``tuning.tensorboard`` and ``tuning.loggers``, checked.

    Args:
        conf: the configuration.
        by_default: whether event files are written where nothing is said about them and TensorBoard is installed.

    Raises:
        ConfigError: one can't be used as it is configured.
        MissingPackageError: a package is not installed.
    """
    tuning = conf.settings.tuning
    loggers: list[RunLogger] = []
    if wants_event_files(tuning.tensorboard, by_default=by_default):
        loggers.append(EventFiles(Path(conf.workspace) / "tensorboard"))
    for kind, make in _KINDS.items():
        settings = None if tuning.loggers is None else getattr(tuning.loggers, kind)
        if settings is None:
            continue
        made = make(settings)
        try:
            made.check()
        except LoggerError as error:
            path = ".".join(filter(None, ("tuning.loggers", kind, error.key)))
            raise conf.problem(path, error.message, error.advice, of_key=not error.key) from None
        loggers.append(made)
    return loggers


def wants_event_files(asked: bool | str, *, by_default: bool) -> bool:
    """Whether event files are written.

    Raises:
        MissingPackageError: they are asked for, and there is nothing that could show them.
    """
    if asked is False or (asked == "auto" and not by_default):
        return False
    if _installed("tensorboard"):
        return True
    if asked is True:
        raise MissingPackageError("tensorboard", "tuning.tensorboard", "report")
    return False


def _installed(package: str) -> bool:
    """Whether a package is there, without importing it."""
    try:
        return find_spec(package) is not None
    except ValueError:  # a module without a spec, or None in sys.modules
        return False
