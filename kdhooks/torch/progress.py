"""Event files by torch's own writer; what else a person sees is in `kdhooks.loop.progress`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdhooks.errors import MissingPackageError
from kdhooks.loop import progress


class EventFiles(progress.EventFiles):
    """Scalars for TensorBoard by ``torch.utils.tensorboard``; see `kdhooks.loop.progress.EventFiles`.

    Raises:
        MissingPackageError: tensorboard is not installed.
    """

    def open(self, folder: Path, step: int) -> Any:
        """A ``SummaryWriter``."""
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise MissingPackageError("tensorboard", "tuning.tensorboard", "report") from None
        return SummaryWriter(str(folder), purge_step=step or None)
