"""Distillation in Lightning 2: one callback for an unchanged ``LightningModule`` and ``Trainer``.

The callback is in `callback`; here it becomes one of the package ``lightning``, and in
`kdhooks.integrations.pytorch_lightning` one of the package of that name, which are the same code under two names.
"""

from __future__ import annotations

from kdhooks.errors import MissingPackageError
from kdhooks.integrations.lightning.callback import DistillationEvents

try:
    from lightning.pytorch.callbacks import Callback
except ModuleNotFoundError as error:
    if error.name not in ("lightning", "lightning.pytorch"):
        raise
    raise MissingPackageError("lightning", "kdhooks.integrations.lightning", "lightning") from None

__all__ = ["DistillationCallback"]


class DistillationCallback(DistillationEvents, Callback):
    __doc__ = DistillationEvents.__doc__
