"""Event files for TensorBoard, written by hand.

The writers that torch and TensorBoard bring import TensorFlow wherever it is installed, which takes seconds and a
gigabyte, for a format of a few lines: a file of TFRecords (a length, a masked CRC-32C of it, the data, and theirs),
each of which is an `Event` message of protocol buffers.
"""

from __future__ import annotations

import itertools
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kdhooks.runs.loggers.base import RunFacts, RunLogger

_NUMBERS = itertools.count()
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5


class EventFiles(RunLogger):
    """Scalars and the configuration's text.

    Args:
        folder: of the event files.
    """

    name = "tensorboard"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: Any = None

    def begin(self, run: RunFacts) -> None:
        """Open a new file; what an interrupted run wrote at this step and beyond it is hidden."""
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_NUMBERS)}"
        self._file = open(self._folder / name, "wb")  # noqa: SIM115  # it is open as long as the run
        self._put(_field(3, _BYTES, b"brain.Event:2"))
        if run.step:
            self._put(_step(run.step), _field(7, _BYTES, _field(1, _VARINT, 1)))  # a SessionLog that says START
        if run.configuration:
            self._put(_step(run.step), _summary(_text("configuration", f"```yaml\n{run.configuration}\n```")))
        self._file.flush()

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """One event a step."""
        self._put(_step(step), _summary(*(_scalar(name, value) for name, value in values.items())))
        self._file.flush()  # a killed run shows what it had

    def metrics(self, values: Mapping[str, float], *, epoch: int, step: int) -> None:
        """One event an epoch, at its last step."""
        self.scalars(values, step)

    def end(self, status: str) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _put(self, *fields: bytes) -> None:
        data = b"".join((_field(1, _DOUBLE, time.time()), *fields))
        length = struct.pack("<Q", len(data))
        self._file.write(length + _masked(length) + data + _masked(data))


def _step(step: int) -> bytes:
    return _field(2, _VARINT, step)


def _summary(*values: bytes) -> bytes:
    return _field(5, _BYTES, b"".join(_field(1, _BYTES, value) for value in values))


def _scalar(name: str, value: float) -> bytes:
    return _field(1, _BYTES, name.encode()) + _field(2, _FLOAT, value)


def _text(name: str, text: str) -> bytes:
    """A value of the plug-in for text: a tensor of one string."""
    tensor = _field(1, _VARINT, 7) + _field(2, _BYTES, b"") + _field(8, _BYTES, text.encode())
    plugin = _field(1, _BYTES, _field(1, _BYTES, b"text"))
    return _field(1, _BYTES, name.encode()) + _field(9, _BYTES, plugin) + _field(8, _BYTES, tensor)


def _field(number: int, kind: int, value: Any) -> bytes:
    """A field of a protocol buffer."""
    key = _varint(number << 3 | kind)
    if kind == _VARINT:
        return key + _varint(value)
    if kind == _BYTES:
        return key + _varint(len(value)) + bytes(value)
    return key + struct.pack("<d" if kind == _DOUBLE else "<f", value)


def _varint(value: int) -> bytes:
    """A whole number of at least 0 in groups of seven bits.

    >>> _varint(300).hex()
    'ac02'
    """
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _masked(data: bytes) -> bytes:
    """The checksum of a TFRecord: CRC-32C, rotated and moved, so that a checksum of checksums stays one."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def crc32c(data: bytes) -> int:
    """The checksum of Castagnoli, of RFC 3720.

    >>> hex(crc32c(b"123456789"))
    '0xe3069283'
    """
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc ^ 0xFFFFFFFF


def _entry(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = tuple(map(_entry, range(256)))
