"""Event files by TensorFlow's own records; what else a person sees is in `kdhooks.loop.progress`."""

from __future__ import annotations

import itertools
import os
import socket
import time
from pathlib import Path
from typing import Any

import tensorflow as tf

from kdhooks.loop import progress

_NUMBERS = itertools.count()


class EventFiles(progress.EventFiles):
    """Scalars for TensorBoard without a package of its own; see `kdhooks.loop.progress.EventFiles`."""

    def open(self, folder: Path, step: int) -> Any:
        """A writer of a new event file."""
        return _Writer(folder, step)


class _Writer:
    """One event file. TensorFlow's summary writers can't hide what an interrupted run wrote; a start record does."""

    def __init__(self, folder: Path, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
        self._file = tf.io.TFRecordWriter(str(folder / name))
        events = tf.compat.v1
        self._put(events.Event(wall_time=time.time(), file_version="brain.Event:2"))
        if step:
            start = events.SessionLog(status=events.SessionLog.START)
            self._put(events.Event(wall_time=time.time(), step=step, session_log=start))

    def _put(self, event: Any) -> None:
        self._file.write(event.SerializeToString())

    def add_scalar(self, name: str, value: float, step: int) -> None:
        """One number of a step."""
        values = [tf.compat.v1.Summary.Value(tag=name, simple_value=float(value))]
        summary = tf.compat.v1.Summary(value=values)
        self._put(tf.compat.v1.Event(wall_time=time.time(), step=step, summary=summary))

    def close(self) -> None:
        """Write what is left."""
        self._file.close()
