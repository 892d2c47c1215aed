"""The callback of `kdhooks.integrations.lightning` for programs that import ``pytorch_lightning``."""

from __future__ import annotations

from kdhooks.errors import MissingPackageError
from kdhooks.integrations.lightning_callback.callback import DistillationEvents

try:
    from pytorch_lightning.callbacks import Callback
except ModuleNotFoundError as error:
    if str(error.name).split(".")[0] != "pytorch_lightning":
        raise
    raise MissingPackageError("lightning", "kdhooks.integrations.pytorch_lightning", "lightning") from None

__all__ = ["DistillationCallback"]


class DistillationCallback(DistillationEvents, Callback):
    """The same as `kdhooks.integrations.lightning.DistillationCallback`, for this package's ``Trainer``."""
