"""Where numbers go: TensorBoard's event files in the run's folder, Comet where it is asked for, loggers of the user's.

Nothing is sent anywhere unless `log_to_comet` or a logger of the user's says so. A key is never shown.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from kdhooks.errors import MissingPackageError, UsageError
from kdhooks.messages import logger

_LINES = ("api key", "project name", "workspace")
_WITHOUT = "Comet asked for without a key"


@dataclass(frozen=True)
class CometInfo:
    """What stands in the file of `comet_info_path`.

    Attributes:
        api_key: the key; not shown in a representation.
        project: the project's name, or None for Comet's own default.
        workspace: the workspace's name, or None for the account's.
    """

    api_key: str = field(repr=False)
    project: str | None = None
    workspace: str | None = None


def read_comet_info(path: str | Path) -> CometInfo:
    """Read key, project and workspace, a line each in this order; the file is text and nothing else.

    Args:
        path: of the file; empty takes the key from the environment's COMET_API_KEY, as Comet itself does.

    Raises:
        UsageError: there is no key.
    """
    if not str(path):
        key = os.environ.get("COMET_API_KEY", "").strip()
        if key:
            return CometInfo(key)
        raise UsageError(
            f"{_WITHOUT}: log_to_comet is True, and comet_info_path names no file. Write key, project and workspace "
            "into a txt file, a line each, or set COMET_API_KEY"
        )
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise UsageError(f"{_WITHOUT}: comet_info_path, {path}, can't be read: {reason}") from None
    values = [*lines, "", "", ""][:3]
    if not values[0] or any(letter.isspace() for letter in values[0]):
        raise UsageError(
            f"{_WITHOUT}: the first line of {path} must be the api key, and it is "
            f"{'empty' if not values[0] else 'of several words'}. The lines are {', '.join(_LINES)}"
        )
    return CometInfo(values[0], values[1] or None, values[2] or None)


def comet_logger(info: CometInfo, name: str) -> Any:
    """Lightning's CometLogger, which begins an experiment.

    Raises:
        MissingPackageError: comet_ml is not installed.
    """
    from lightning.pytorch.loggers import CometLogger

    options: dict[str, Any] = {"name": name} if name else {}
    return CometLogger(api_key=info.api_key, project=info.project, workspace=info.workspace, **options)


def check_comet_package() -> None:
    """MissingPackageError where comet_ml is not installed."""
    if find_spec("comet_ml") is None:
        raise MissingPackageError("comet_ml", "log_to_comet", "comet")


def file_logger(folder: Path) -> Any:
    """Event files for TensorBoard in a folder, or CSV where no writer of them is installed."""
    from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

    if find_spec("tensorboard") is None and find_spec("tensorboardX") is None:
        logger.info("tensorboard is not installed, so metrics go to %s: pip install 'kdhooks[report]'", folder)
        return CSVLogger(folder, name="", version="")
    _leave_tensorflow_alone()
    return TensorBoardLogger(folder, name="", version="", default_hp_metric=False)


def _leave_tensorflow_alone() -> None:
    """Let tensorboard write by itself; where TensorFlow is installed it would load all of it, only to open a file."""
    sign = "tensorboard.compat.notf"
    if find_spec("tensorboard") is None or "tensorflow" in sys.modules or sign in sys.modules:
        return
    sys.modules[sign] = ModuleType(sign)  # the package's own sign for this
    try:
        compat = import_module("tensorboard.compat")
        getattr(compat.tf, "io", None)  # chosen now, and then for good
    finally:
        del sys.modules[sign]


def log_parameters(loggers: Iterable[Any], parameters: Mapping[str, Any] | None) -> None:
    """Save `logging_param` with every logger."""
    if parameters:
        for one in loggers:
            one.log_hyperparams(dict(parameters))


def log_numbers(loggers: Iterable[Any], numbers: Mapping[str, float], step: int) -> None:
    """Give numbers to every logger."""
    for one in loggers:
        one.log_metrics(dict(numbers), step=step)
