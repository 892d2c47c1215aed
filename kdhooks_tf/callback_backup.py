"""The distillation's state beside Keras' own backup: arrays and JSON in one ``.npz``, nothing pickled.

`keras.callbacks.BackupAndRestore` writes the model's weights into its directory and deletes the directory
when training has ended. Our file stands in the same directory, is written just before the weights, and is
read back only where the optimizer's count of steps is the one that was saved with it. The file before it is
kept as well, for a crash between our file and the weights.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import keras

from kdhooks_tf.callback_state import read_state, write_state

_FILE, _PREVIOUS = "distillation.npz", "distillation.previous.npz"


class Backups:
    """The `BackupAndRestore` callbacks of one fit.

    Args:
        callbacks: all of the fit.

    Attributes:
        directory: where `state_for` found a state.
    """

    def __init__(self, callbacks: Iterable[Any]) -> None:
        self._backups = [one for one in callbacks if isinstance(one, keras.callbacks.BackupAndRestore)]
        self.directory: Path | None = None

    def owner_of(self, filepath: Any) -> Any:
        """The callback that writes weights to this path, or None."""
        folder = Path(os.fspath(filepath)).parent
        return next((one for one in self._backups if Path(os.fspath(one.backup_dir)) == folder), None)

    def save(self, backup: Any, model: Any, state: dict[str, Any]) -> None:
        """Write the state that belongs to the weights that are about to be written."""
        folder = Path(os.fspath(backup.backup_dir))
        folder.mkdir(parents=True, exist_ok=True)
        if (folder / _FILE).exists():
            os.replace(folder / _FILE, folder / _PREVIOUS)
        write_state(folder / _FILE, {"iterations": _iterations(model), "state": state})

    def state_for(self, model: Any) -> dict[str, Any] | None:
        """The state that was saved with the weights that the model has now, or None.

        Raises:
            CheckpointError: a file that can't be read.
        """
        for backup in self._backups:
            folder = Path(os.fspath(backup.backup_dir))
            for path in (folder / _FILE, folder / _PREVIOUS):
                saved = read_state(path) if path.exists() else None
                if saved is not None and saved["iterations"] == _iterations(model):
                    self.directory = folder
                    state: dict[str, Any] = saved["state"]
                    return state
        return None


def callback_lists() -> list[Any]:
    """The lists of callbacks that are calling us, the innermost first.

    Keras hands a callback nothing of its list, and the other callbacks of a fit are known only there. Only
    Keras' own frames are looked into: a look would keep what the user's functions hold alive.
    """
    found: list[Any] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code is keras.callbacks.CallbackList.on_train_begin.__code__:
            found.append(frame.f_locals["self"])
        frame = frame.f_back
    return found


def _iterations(model: Any) -> int:
    return int(model.optimizer.iterations) if model.optimizer is not None else 0
