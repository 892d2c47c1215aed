"""Transforms of batches of images [N, H, W, C], by name, in NumPy.

Rules: a random transform takes its numbers from `Draws`, so a row's augmentation depends on (seed, epoch, row)
and on nothing else, and is the one that PyTorch's side makes of the same row. A transform of a batch equals the same
transform of its rows one by one. No Python loop runs over rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.datasets.draws import Draws
from kdhooks.datasets.options import height_width, number, whole
from kdhooks.errors import DataError, UsageError
from kdhooks.names import Table

Array = NDArray[Any]
Transform = Callable[[Array, Draws], Array]
"""A batch and its random numbers in, a batch out; both [N, ...]."""

TRANSFORMS: Table[Callable[..., Any]] = Table("transform")
"""Every transform that a configuration can name."""


def _images(name: str, batch: Array, *, floats: bool = False) -> Array:
    if batch.ndim != 4:
        raise DataError(f"{name} needs images [N, H, W, C], and the batch is {list(batch.shape)}")
    if floats and batch.dtype.kind != "f":
        raise DataError(f"{name} needs floats, and the batch is {batch.dtype}: put ToTensor before it")
    return batch


def _column(values: Array) -> Array:
    """One number a row, [N, 1], as [N, 1, 1, 1]."""
    return values.reshape(-1, 1, 1, 1)


@TRANSFORMS.register("ToTensor", "ToFloat")
def to_tensor() -> Transform:
    """uint8 from 0 to 255 becomes float32 from 0 to 1; floats stay as they are."""

    def transform(batch: Array, draws: Draws) -> Array:
        return batch if batch.dtype.kind == "f" else batch.astype(np.float32) / np.float32(255)

    return transform


@TRANSFORMS.register("Normalize")
def normalize(mean: float | Sequence[float], std: float | Sequence[float]) -> Transform:
    """(x - mean) / std, channel by channel.

    Args:
        mean: one number, or one a channel, in the units of the batch (after ToTensor: from 0 to 1).
        std: likewise, above 0.
    """
    means, deviations = _per_channel("mean", mean), _per_channel("std", std)
    if not (deviations > 0).all():
        raise UsageError(f"Normalize: std must be above 0, not {std!r}")

    def transform(batch: Array, draws: Draws) -> Array:
        channels = _images("Normalize", batch, floats=True).shape[3]
        if any(len(values) not in (1, channels) for values in (means, deviations)):
            given = max(len(means), len(deviations))
            raise DataError(f"Normalize has {given} values, and the images have {channels} channels")
        done: Array = (batch - means.astype(batch.dtype)) / deviations.astype(batch.dtype)
        return done

    return transform


def _per_channel(name: str, value: object) -> Array:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise UsageError(f"Normalize: {name} must be a number or a list of numbers, not {value!r}")
    return np.array(values, dtype=np.float32)


@TRANSFORMS.register("Resize")
def resize(size: int | Sequence[int]) -> Transform:
    """Scale images to a size (bilinear, with antialiasing); one number makes them square."""
    height, width = height_width("Resize: size", size)

    def transform(batch: Array, draws: Draws) -> Array:
        images = _images("Resize", batch, floats=True)
        rows = _scaling(int(images.shape[1]), height).astype(batch.dtype)
        columns = _scaling(int(images.shape[2]), width).astype(batch.dtype)
        scaled: Array = np.einsum("hi,nijc,wj->nhwc", rows, images, columns, optimize=True)
        return scaled

    return transform


def _scaling(size: int, to: int) -> Array:
    """[to, size] weights of a triangle as wide as the scale, as PIL's bilinear filter has them."""
    scale = max(1.0, size / to)
    centers = (np.arange(to) + 0.5) * size / to
    distances = (np.arange(size)[None, :] + 0.5 - centers[:, None]) / scale
    weights = np.maximum(0.0, 1 - np.abs(distances))
    done: Array = weights / weights.sum(1, keepdims=True)
    return done


@TRANSFORMS.register("CenterCrop")
def center_crop(size: int | Sequence[int]) -> Transform:
    """The middle of each image; one number makes it square."""
    height, width = height_width("CenterCrop: size", size)

    def transform(batch: Array, draws: Draws) -> Array:
        top, left = _room("CenterCrop", batch, height, width)
        top, left = top // 2, left // 2
        return batch[:, top : top + height, left : left + width]

    return transform


def _room(name: str, batch: Array, height: int, width: int) -> tuple[int, int]:
    """How far a crop can move down and to the right."""
    rows, columns = _images(name, batch).shape[1:3]
    if height > rows or width > columns:
        raise DataError(f"{name} cannot cut {height} x {width} out of images of {rows} x {columns}")
    return rows - height, columns - width


@TRANSFORMS.register("RandomCrop")
def random_crop(size: int | Sequence[int] | None = None, padding: int = 0) -> Transform:
    """A random part of each image, after a border of zeros is put around it.

    Args:
        size: of the part; the size of the images where it is missing.
        padding: pixels on every side.
    """
    wanted = None if size is None else height_width("RandomCrop: size", size)
    padding = whole("RandomCrop: padding", padding)

    def transform(batch: Array, draws: Draws) -> Array:
        height, width = wanted or (int(size) for size in _images("RandomCrop", batch).shape[1:3])
        border = (padding, padding)
        padded = np.pad(batch, ((0, 0), border, border, (0, 0))) if padding else batch
        down, right = _room("RandomCrop", padded, height, width)
        tops, lefts = draws.integers(down + 1)[:, 0], draws.integers(right + 1)[:, 0]
        y, x = tops[:, None] + np.arange(height), lefts[:, None] + np.arange(width)
        cut: Array = padded[np.arange(len(batch))[:, None, None], y[:, :, None], x[:, None, :]]
        return cut

    return transform


@TRANSFORMS.register("RandomShift")
def random_shift(pixels: int) -> Transform:
    """Move each image by up to so many pixels in both directions; zeros come in."""
    crop: Transform = random_crop(None, whole("RandomShift: pixels", pixels))
    return crop


@TRANSFORMS.register("RandomHorizontalFlip")
def random_horizontal_flip(p: float = 0.5) -> Transform:
    """Mirror each image, left to right, with probability `p`."""
    probability = number("RandomHorizontalFlip: p", p, most=1)

    def transform(batch: Array, draws: Draws) -> Array:
        flips = _column(draws.uniform() < probability)
        return np.where(flips, _images("RandomHorizontalFlip", batch)[:, :, ::-1], batch)

    return transform


@TRANSFORMS.register("RandomRotation")
def random_rotation(degrees: float) -> Transform:
    """Turn each image about its middle by a random angle from -degrees to degrees (bilinear); zeros come in."""
    largest = math.radians(number("RandomRotation: degrees", degrees, most=180))

    def transform(batch: Array, draws: Draws) -> Array:
        images = _images("RandomRotation", batch, floats=True)
        angles = ((draws.uniform()[:, 0] * 2 - 1) * largest).astype(batch.dtype)
        cos, sin = np.cos(angles)[:, None, None], np.sin(angles)[:, None, None]
        rows, columns = images.shape[1:3]
        # pixels from the middle, so that a long side needs no ratio
        y = (np.arange(rows, dtype=batch.dtype) - (rows - 1) / 2)[None, :, None]
        x = (np.arange(columns, dtype=batch.dtype) - (columns - 1) / 2)[None, None, :]
        return _bilinear(images, sin * x + cos * y + (rows - 1) / 2, cos * x - sin * y + (columns - 1) / 2)

    return transform


def _bilinear(images: Array, y: Array, x: Array) -> Array:
    """Images [N, H, W, C] at places [N, H', W'], 0 outside."""
    top, left = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    below, right = (y - top).astype(images.dtype), (x - left).astype(images.dtype)
    done = np.zeros((*y.shape, images.shape[3]), images.dtype)
    number = np.arange(len(images))[:, None, None]
    for down, over in ((0, 0), (0, 1), (1, 0), (1, 1)):
        row, column = top + down, left + over
        inside = (row >= 0) & (row < images.shape[1]) & (column >= 0) & (column < images.shape[2])
        weight = (below if down else 1 - below) * (right if over else 1 - right) * inside
        taken = images[number, row.clip(0, images.shape[1] - 1), column.clip(0, images.shape[2] - 1)]
        done += weight[..., None] * taken
    return done


@TRANSFORMS.register("RandomErasing", "Cutout")
def random_erasing(size: int | Sequence[int], p: float = 1.0) -> Transform:
    """Set a rectangle of each image to zero, with probability `p`; it may hang over the border.

    Source: DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
    """
    height, width = height_width("RandomErasing: size", size)
    probability = number("RandomErasing: p", p, most=1)

    def transform(batch: Array, draws: Draws) -> Array:
        rows, columns = _images("RandomErasing", batch).shape[1:3]
        top = _column(draws.integers(rows) - height // 2)
        left = _column(draws.integers(columns) - width // 2)
        y, x = np.arange(rows).reshape(1, -1, 1, 1), np.arange(columns).reshape(1, 1, -1, 1)
        inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        return np.where(inside & _column(draws.uniform() < probability), np.zeros((), batch.dtype), batch)

    return transform


@TRANSFORMS.register("GaussianNoise")
def gaussian_noise(std: float) -> Transform:
    """Add normal noise of standard deviation `std`, in the units of the batch."""
    deviation = number("GaussianNoise: std", std)

    def transform(batch: Array, draws: Draws) -> Array:
        if batch.dtype.kind != "f":
            raise DataError(f"GaussianNoise needs floats, and the batch is {batch.dtype}: put ToTensor before it")
        noise = draws.normal(math.prod(batch.shape[1:]))
        if batch.ndim == 4:  # channels first is the order in which PyTorch's side draws
            n, rows, columns, channels = batch.shape
            noise = noise.reshape(n, channels, rows, columns).transpose(0, 2, 3, 1).reshape(n, -1)
        noisy: Array = batch + np.asarray(deviation, batch.dtype) * noise.reshape(batch.shape).astype(batch.dtype)
        return noisy

    return transform
