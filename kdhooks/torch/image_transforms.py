"""Transforms of batches of images [N, C, H, W], by name.

Rules: a random transform takes its numbers from `Draws`, so a row's augmentation depends on (seed, epoch, row)
and on nothing else: not on the batch it is in, the number of workers, or anybody's generator. A transform of a
batch equals the same transform of its rows one by one. No Python loop runs over rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhooks.datasets.draws import Draws
from kdhooks.datasets.options import height_width, number, whole
from kdhooks.errors import DataError, UsageError
from kdhooks.names import Table

Transform = Callable[[Tensor, Draws], Tensor]
"""A batch and its random numbers in, a batch out; both [N, ...]."""

TRANSFORMS: Table[Callable[..., Any]] = Table("transform")
"""Every transform that a configuration can name."""


def _images(name: str, batch: Tensor, *, floats: bool = False) -> Tensor:
    if batch.ndim != 4:
        raise DataError(f"{name} needs images [N, C, H, W], and the batch is {list(batch.shape)}")
    if floats and not batch.is_floating_point():
        raise DataError(f"{name} needs floats, and the batch is {batch.dtype}: put ToTensor before it")
    return batch


def _column(values: Any) -> Tensor:
    """One number a row, [N, 1] of NumPy, as [N, 1, 1, 1]."""
    return torch.from_numpy(values).view(-1, 1, 1, 1)


@TRANSFORMS.register("ToTensor", "ToFloat")
def to_tensor() -> Transform:
    """uint8 from 0 to 255 becomes float32 from 0 to 1; floats stay as they are."""

    def transform(batch: Tensor, draws: Draws) -> Tensor:
        return batch if batch.is_floating_point() else batch.to(torch.float32).div_(255)

    return transform


@TRANSFORMS.register("Normalize")
def normalize(mean: float | Sequence[float], std: float | Sequence[float]) -> Transform:
    """(x - mean) / std, channel by channel.

    Args:
        mean: one number, or one a channel, in the units of the batch (after ToTensor: from 0 to 1).
        std: likewise, above 0.
    """
    means, deviations = _per_channel("mean", mean), _per_channel("std", std)
    if not bool((deviations > 0).all()):
        raise UsageError(f"Normalize: std must be above 0, not {std!r}")

    def transform(batch: Tensor, draws: Draws) -> Tensor:
        channels = _images("Normalize", batch, floats=True).shape[1]
        if any(len(values) not in (1, channels) for values in (means, deviations)):
            given = max(len(means), len(deviations))
            raise DataError(f"Normalize has {given} values, and the images have {channels} channels")
        return (batch - means.to(batch.dtype).view(-1, 1, 1)) / deviations.to(batch.dtype).view(-1, 1, 1)

    return transform


def _per_channel(name: str, value: object) -> Tensor:
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not values or any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in values):
        raise UsageError(f"Normalize: {name} must be a number or a list of numbers, not {value!r}")
    return torch.tensor(values, dtype=torch.float32)


@TRANSFORMS.register("Resize")
def resize(size: int | Sequence[int]) -> Transform:
    """Scale images to a size (bilinear, with antialiasing); one number makes them square."""
    target = height_width("Resize: size", size)

    def transform(batch: Tensor, draws: Draws) -> Tensor:
        images = _images("Resize", batch, floats=True)
        return F.interpolate(images, target, mode="bilinear", antialias=True, align_corners=False)

    return transform


@TRANSFORMS.register("CenterCrop")
def center_crop(size: int | Sequence[int]) -> Transform:
    """The middle of each image; one number makes it square."""
    height, width = height_width("CenterCrop: size", size)

    def transform(batch: Tensor, draws: Draws) -> Tensor:
        top, left = _room("CenterCrop", batch, height, width)
        top, left = top // 2, left // 2
        return batch[:, :, top : top + height, left : left + width]

    return transform


def _room(name: str, batch: Tensor, height: int, width: int) -> tuple[int, int]:
    """How far a crop can move down and to the right."""
    rows, columns = _images(name, batch).shape[2:]
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

    def transform(batch: Tensor, draws: Draws) -> Tensor:
        height, width = wanted or (int(size) for size in _images("RandomCrop", batch).shape[2:])
        padded = F.pad(batch, (padding,) * 4) if padding else batch
        down, right = _room("RandomCrop", padded, height, width)
        tops, lefts = torch.from_numpy(draws.integers(down + 1)), torch.from_numpy(draws.integers(right + 1))
        return _cut(padded, tops, lefts, height, width)

    return transform


def _cut(images: Tensor, tops: Tensor, lefts: Tensor, height: int, width: int) -> Tensor:
    """The part of each image that begins at a row and a column of its own, both [N, 1]."""
    count, channels, rows, columns = images.shape
    flat = images.contiguous().view(-1)
    # every run of `width` pixels, wherever it begins: a view, from which the rows of all parts are taken at once
    runs = flat.as_strided((max(0, len(flat) - width + 1), width), (1, 1))
    first = (tops * columns + lefts).view(-1, 1, 1) + torch.arange(count * channels).view(
        count, channels, 1
    ) * rows * columns
    begins = first + torch.arange(height) * columns
    return runs.index_select(0, begins.view(-1)).view(count, channels, height, width)


@TRANSFORMS.register("RandomShift")
def random_shift(pixels: int) -> Transform:
    """Move each image by up to so many pixels in both directions; zeros come in."""
    crop: Transform = random_crop(None, whole("RandomShift: pixels", pixels))
    return crop


@TRANSFORMS.register("RandomHorizontalFlip")
def random_horizontal_flip(p: float = 0.5) -> Transform:
    """Mirror each image, left to right, with probability `p`."""
    probability = number("RandomHorizontalFlip: p", p, most=1)

    def transform(batch: Tensor, draws: Draws) -> Tensor:
        flips = torch.from_numpy((draws.uniform()[:, 0] < probability).nonzero()[0])
        mirrored = _images("RandomHorizontalFlip", batch).index_select(0, flips).flip(3)
        return batch.index_copy(0, flips, mirrored)

    return transform


@TRANSFORMS.register("RandomRotation")
def random_rotation(degrees: float) -> Transform:
    """Turn each image about its middle by a random angle from -degrees to degrees (bilinear); zeros come in."""
    largest = math.radians(number("RandomRotation: degrees", degrees, most=180))

    def transform(batch: Tensor, draws: Draws) -> Tensor:
        images = _images("RandomRotation", batch, floats=True)
        angles = torch.from_numpy((draws.uniform()[:, 0] * 2 - 1) * largest).to(batch.dtype)
        cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
        # affine_grid's coordinates run from -1 to 1 along both sides, so a long side has smaller pixels.
        ratio = images.shape[2] / images.shape[3]
        top = torch.stack([cos, -sin * ratio, zero], 1)
        bottom = torch.stack([sin / ratio, cos, zero], 1)
        grid = F.affine_grid(torch.stack([top, bottom], 1), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, align_corners=False)

    return transform


@TRANSFORMS.register("RandomErasing", "Cutout")
def random_erasing(size: int | Sequence[int], p: float = 1.0) -> Transform:
    """Set a rectangle of each image to zero, with probability `p`; it may hang over the border.

    Source: DeVries and Taylor, "Improved regularization of convolutional neural networks with cutout", 2017.
    """
    height, width = height_width("RandomErasing: size", size)
    probability = number("RandomErasing: p", p, most=1)

    def transform(batch: Tensor, draws: Draws) -> Tensor:
        rows, columns = _images("RandomErasing", batch).shape[2:]
        top = _column(draws.integers(rows) - height // 2)
        left = _column(draws.integers(columns) - width // 2)
        y, x = torch.arange(rows).view(1, 1, -1, 1), torch.arange(columns).view(1, 1, 1, -1)
        inside = (y >= top) & (y < top + height) & (x >= left) & (x < left + width)
        return batch.masked_fill(inside & _column(draws.uniform() < probability), 0)

    return transform


@TRANSFORMS.register("GaussianNoise")
def gaussian_noise(std: float) -> Transform:
    """Add normal noise of standard deviation `std`, in the units of the batch."""
    deviation = number("GaussianNoise: std", std)

    def transform(batch: Tensor, draws: Draws) -> Tensor:
        if not batch.is_floating_point():
            raise DataError(f"GaussianNoise needs floats, and the batch is {batch.dtype}: put ToTensor before it")
        noise = torch.from_numpy(draws.normal(math.prod(batch.shape[1:]))).view(batch.shape)
        return batch + deviation * noise.to(batch.dtype)

    return transform
