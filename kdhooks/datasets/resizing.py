"""Images of another size, without an image library: for data sets that are to look alike.

Rules: pure NumPy, and every row by itself, so that a split changes no pixel.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from kdhooks.resampling import resampling


@lru_cache(maxsize=16)
def _weights(before: int, after: int) -> NDArray[np.float32]:
    """What every pixel before gives to every pixel after, [after, before], rows of sum 1."""
    shares: NDArray[np.float32] = resampling(before, after).astype(np.float32)
    return shares


def resized(images: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Images of another height and width, bilinear, with a wider triangle where they shrink.

    Args:
        images: [N, C, H, W].
        size: the height and width to make.

    >>> resized(np.ones((1, 1, 8, 8), np.float32), (16, 16)).shape
    (1, 1, 16, 16)
    """
    if images.shape[-2:] == size:
        return images
    tall, wide = (_weights(before, after) for before, after in zip(images.shape[-2:], size, strict=True))
    found: NDArray[np.float32] = np.ascontiguousarray(tall @ images.astype(np.float32, copy=False) @ wide.T)
    return found


def framed(images: NDArray[np.float32], margin: int) -> NDArray[np.float32]:
    """Images [N, C, H, W] without `margin` pixels on every side."""
    return images[..., margin : images.shape[-2] - margin, margin : images.shape[-1] - margin] if margin else images
