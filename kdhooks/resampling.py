"""Matrices that resample an axis, for images of data sets and for weights that are transferred."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def resampling(old: int, new: int, *, cubic: bool = False) -> Array:
    """The matrix [new, old] that interpolates an axis; each row sums to 1.

    Pixels are centred: output i looks at (i + 1/2) old / new, through a triangle, or Keys' cubic kernel with a = -1/2,
    that is stretched by old / new where that is above 1, and cut at the borders.

    >>> resampling(2, 1)
    array([[0.5, 0.5]])
    """
    scale = old / new
    stretch = max(scale, 1.0)
    support = (2.0 if cubic else 1.0) * stretch
    result = np.zeros((new, old))
    for row in range(new):
        center = scale * (row + 0.5)
        first, last = max(int(center - support + 0.5), 0), min(int(center + support + 0.5), old)
        places = np.asarray(np.arange(first, last) - center + 0.5, np.float64) / stretch
        kernel = _cubic(places) if cubic else np.clip(1 - np.abs(places), 0, None)
        result[row, first:last] = kernel / kernel.sum()
    return result


def _cubic(places: Array, a: float = -0.5) -> Array:
    """Keys 1981, "Cubic convolution interpolation for digital image processing", equation 4."""
    x = np.abs(places)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
