"""Compares what a file gives with what the model gives, output by output, in NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

TOLERANCES = {"float64": 1e-5, "float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}
"""The largest difference that is allowed, by the least precise dtype that a model computes in: a few last bits."""


def compared(
    own: Mapping[str, NDArray[Any]], read: Mapping[str, NDArray[Any]], tolerance: float
) -> tuple[float, str | None]:
    """The largest absolute difference, and what is wrong, or None.

    Numbers may differ by `tolerance`, or by that much of the output's largest number where that is over 1. What is not
    finite, integers and flags must be the same.

    Args:
        own: the model's outputs by name.
        read: the file's.
        tolerance: for numbers of at most 1.

    >>> compared({"a": np.float32([1.0, 200.0])}, {"a": np.float32([1.0, 200.001])}, 1e-5)[1] is None
    True
    >>> compared({"a": np.float32([1.0])}, {"a": np.float32([1.5])}, 1e-5)
    (0.5, "'a' differs by 0.5, and 1e-05 is allowed")
    """
    if list(own) != list(read):
        return float("nan"), f"it gives {_names(read)}, and the model {_names(own)}"
    largest = 0.0
    for name, value in own.items():
        other = read[name]
        if value.shape != other.shape:
            return float("nan"), f"{name!r} is of shape {list(other.shape)}, and the model's {list(value.shape)}"
        if value.dtype != other.dtype:
            return float("nan"), f"{name!r} is {other.dtype}, and the model's {value.dtype}"
        difference, allowed, exact = _difference(value, other, tolerance)
        largest = max(largest, difference)
        if not exact:
            return largest, f"{name!r} is not finite, or no number, in other places than the model's"
        if not difference <= allowed:
            return difference, f"{name!r} differs by {difference:.2g}, and {allowed:.2g} is allowed"
    return largest, None


def _difference(value: NDArray[Any], other: NDArray[Any], tolerance: float) -> tuple[float, float, bool]:
    """The largest difference, what is allowed, and whether what is not finite is the same."""
    if value.dtype.kind in "biuSUO":
        unequal = value != other
        if value.dtype.kind in "iu" and bool(np.any(unequal)):
            return float(np.max(np.abs(value.astype(np.float64) - other.astype(np.float64)))), 0.0, True
        return float(np.any(unequal)), 0.0, True
    wide = np.complex128 if value.dtype.kind == "c" else np.float64
    one, two = value.astype(wide), other.astype(wide)
    finite = np.isfinite(one)
    same = np.array_equal(finite, np.isfinite(two)) and np.array_equal(one[~finite], two[~finite], equal_nan=True)
    if not same:
        return float("inf"), tolerance, False
    scale = float(np.max(np.abs(one[finite]), initial=1.0))
    return float(np.max(np.abs(one[finite] - two[finite]), initial=0.0)), tolerance * scale, True


def _names(values: Mapping[str, Any]) -> str:
    return ", ".join(map(repr, values)) or "nothing"
