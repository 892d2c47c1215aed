"""Small pictures of inputs, as PNG in a data URI, without a package for images."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 64
"""Pixels of a side; a larger image is shown by every n-th pixel."""

_SMALLEST = 4
_CHANNELS = (1, 3)


def picture(row: Any) -> str | None:
    """A data URI of one input where it is an image, [C, H, W], [H, W, C] or [H, W]; None where it is none.

    Its values are stretched to the range from black to white, since what normalised them is not known.

    >>> picture(np.zeros((1, 8, 8)))[:22], picture(np.zeros(7))
    ('data:image/png;base64,', None)
    """
    image = _image(row)
    if image is None:
        return None
    step = -(-max(image.shape[:2]) // LARGEST)
    return f"data:image/png;base64,{base64.b64encode(png(_stretched(image[::step, ::step]))).decode()}"


def png(image: NDArray[np.uint8]) -> bytes:
    """The file of an image [H, W, 1 or 3] of bytes."""
    height, width, channels = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 0 if channels == 1 else 2, 0, 0, 0)
    lines = np.concatenate([np.zeros((height, 1), np.uint8), image.reshape(height, -1)], axis=1)  # 0: not filtered
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _image(row: Any) -> NDArray[Any] | None:
    """[H, W, channels] in floating point."""
    values = np.asarray(row)
    if values.dtype.kind not in "fiu" or values.ndim not in (2, 3) or not np.isfinite(values).all():
        return None
    if values.ndim == 2:
        values = values[:, :, None]
    elif values.shape[2] not in _CHANNELS:
        values = np.moveaxis(values, 0, 2)
    fits = values.shape[2] in _CHANNELS and min(values.shape[:2]) >= _SMALLEST
    return values.astype(np.float64) if fits else None


def _stretched(image: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = image.min(), image.max()
    return np.asarray(np.rint((image - low) / ((high - low) or 1.0) * 255)).astype(np.uint8)
