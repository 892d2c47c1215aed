"""Event files for TensorBoard, by TensorBoard's own writer of records and its own messages.

Its `EventFileWriter`, and torch's `SummaryWriter` on it, would import all of TensorFlow where that is installed, only
to open a file. They also write in a thread of their own: a full disk is then a traceback on the screen, and from
Python 3.12 on a loader that forks its workers is warned of the thread. So the file is opened here.
"""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from kdhooks.runs.loggers.base import RunFacts, RunLogger
from kdhooks.runs.loggers.packages import quiet

_NUMBERS = itertools.count()
_FILE_VERSION = "brain.Event:2"
"""What the first event of every file says."""


class EventFiles(RunLogger):
    """Scalars and the configuration's text.

    Args:
        folder: of the event files.
    """

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: Any = None
        self._writer: Any = None
        self._proto: Any = None

    def begin(self, run: RunFacts) -> None:
        """Open a new file; what an interrupted run wrote at this step and beyond it is hidden."""
        self._proto = _tensorboards("compat.proto.event_pb2")
        records = _tensorboards("summary.writer.record_writer")
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
        self._file = open(self._folder / name, "wb")  # noqa: SIM115  # it is open as long as the run
        self._writer = records.RecordWriter(self._file)
        self._put(file_version=_FILE_VERSION)
        if run.step:
            start = self._proto.SessionLog(status=self._proto.SessionLog.START)
            self._put(step=run.step, session_log=start)
        if run.configuration:
            self._put(step=run.step, summary=_text("configuration", f"```yaml\n{run.configuration}\n```"))
        self._file.flush()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One event a step."""
        self._put(step=step, summary=_scalars(values))
        self._file.flush()  # a killed run shows what it had

    def metrics(self, values: Mapping[str, float], *, epoch: int, step: int) -> None:
        """One event an epoch, at its last step."""
        self.scalars(values, step)

    def end(self, status: str) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put(self, **fields: Any) -> None:
        self._writer.write(self._proto.Event(wall_time=time.time(), **fields).SerializeToString())


def _tensorboards(module: str) -> Any:
    """A module of TensorBoard, which is imported once event files are written; these leave TensorFlow alone."""
    with quiet():
        return import_module(f"tensorboard.{module}")


def _scalars(values: Mapping[str, float]) -> Any:
    summary = _tensorboards("compat.proto.summary_pb2").Summary
    return summary(value=[summary.Value(tag=name, simple_value=value) for name, value in values.items()])


def _text(name: str, text: str) -> Any:
    """A value of the plug-in for text: a tensor of one string."""
    messages = _tensorboards("compat.proto.summary_pb2")
    tensor = _tensorboards("compat.proto.tensor_pb2").TensorProto(
        dtype=_tensorboards("compat.proto.types_pb2").DT_STRING,
        tensor_shape=_tensorboards("compat.proto.tensor_shape_pb2").TensorShapeProto(),
        string_val=[text.encode()],
    )
    plugin = messages.SummaryMetadata.PluginData(plugin_name="text")
    value = messages.Summary.Value(tag=name, metadata=messages.SummaryMetadata(plugin_data=plugin), tensor=tensor)
    return messages.Summary(value=[value])
