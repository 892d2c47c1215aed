"""Numbers as bytes and back, one record of fixed size a row; what comes back is always float32.

Finite numbers that float16 cannot hold become its largest (65504); NaN and infinity stay what they are, so
that a loss shows them as it would have without the store.
"""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Stored = Literal["float32", "float16", "bfloat16", "int8"]
DTYPES: tuple[str, ...] = get_args(Stored)

Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]

_SIZES = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}
_SCALES = 8  # of a row in int8: its smallest value and its step, as float32
_HALF_MAX = 65504.0


def record_bytes(dtype: Stored, shape: tuple[int, ...]) -> int:
    """How many bytes a row of a shape takes."""
    return math.prod(shape) * _SIZES[dtype] + (_SCALES if dtype == "int8" else 0)


def encode(values: NDArray[Any], dtype: Stored) -> Bytes:
    """Rows of numbers [R, ...] as bytes [R, B]; every row by itself, whatever rows are beside it."""
    rows = np.ascontiguousarray(values, dtype=np.float32).reshape(len(values), math.prod(values.shape[1:]))
    if dtype == "float32":
        return _bytes(rows.astype("<f4", copy=False))
    if dtype == "float16":
        held = np.where(np.isfinite(rows), np.clip(rows, -_HALF_MAX, _HALF_MAX), rows)
        return _bytes(held.astype("<f2"))
    if dtype == "bfloat16":
        return _bytes(_upper_halves(rows))
    return _quantized(rows)


def decode(data: Bytes, dtype: Stored, shape: tuple[int, ...]) -> Floats:
    """Rows of bytes [R, B] as float32 [R, *shape]; the rows may lie apart, as columns of a table do."""
    wide = (len(data), *shape)
    if dtype == "float32":
        return viewed(data, "<f4").astype(np.float32).reshape(wide)
    if dtype == "float16":
        return viewed(data, "<f2").astype(np.float32).reshape(wide)
    if dtype == "bfloat16":
        return (viewed(data, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32).reshape(wide)
    scales = viewed(data[:, :_SCALES], "<f4")
    values: Floats = data[:, _SCALES:] * scales[:, 1:] + scales[:, :1]
    return values.astype(np.float32, copy=False).reshape(wide)


def _upper_halves(rows: Floats) -> NDArray[np.uint16]:
    """float32 rounded to bfloat16, to nearest even, as bits."""
    bits = rows.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)  # rounding up could turn a NaN into an infinity
    return np.where(np.isnan(rows), quiet, rounded).astype("<u2")


def _quantized(rows: Floats) -> Bytes:
    """Each row as its smallest value, its step of a 255th of its range, and one byte a number."""
    if rows.shape[1] == 0:
        return np.zeros((len(rows), _SCALES), np.uint8)
    exact = rows.astype(np.float64)
    low = exact.min(axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):  # a row with infinities comes back as NaN
        step = ((exact.max(axis=1, keepdims=True) - low) / 255).astype(np.float32)
        codes = np.rint((exact - low) / np.where(step > 0, step, 1)).clip(0, 255)
    codes = np.where(np.isfinite(codes), codes, 0).astype(np.uint8)
    scales = np.concatenate([low, step], axis=1).astype("<f4")
    return np.concatenate([_bytes(scales), codes], axis=1)


def _bytes(rows: NDArray[Any]) -> Bytes:
    if rows.size == 0:
        return np.zeros((len(rows), 0), np.uint8)
    return rows.view(np.uint8)


def viewed(data: Bytes, dtype: str | np.dtype[Any]) -> NDArray[Any]:
    """Bytes [R, B], each row without gaps, as numbers of a dtype."""
    if data.size == 0:
        return np.zeros((len(data), 0), dtype)
    return data.view(dtype)
