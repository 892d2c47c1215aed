"""Images of shapes with known masks, as two scanners see them: for segmentation across domains, made up.

Rules: the shapes of a row depend on seed and row only, so both scanners see the same anatomy where they are asked for
the same rows; what a scanner adds (contrast, blur, shading, noise) depends on the scanner as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kdhooks.datasets.arrays import Arrays
from kdhooks.datasets.draws import Draws, key
from kdhooks.datasets.options import flag, whole
from kdhooks.errors import UsageError
from kdhooks.names import did_you_mean

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Scanner:
    """How a scanner sees tissue.

    Attributes:
        brightness: of background, organ and lesion, from 0 to 1.
        texture: standard deviation of the tissue itself, before blur.
        blur: passes of a [1, 2, 1] / 4 filter along every axis.
        shading: how much brighter one side of the image is than the other.
        noise: standard deviation, behind all.
    """

    brightness: tuple[float, float, float]
    texture: float
    blur: int
    shading: float
    noise: float


SCANNERS = {
    "a": Scanner(brightness=(0.15, 0.5, 0.85), texture=0.05, blur=0, shading=0.0, noise=0.04),
    "b": Scanner(brightness=(0.4, 0.62, 0.78), texture=0.05, blur=2, shading=0.25, noise=0.07),
}
"""The two by name: a is sharp, b has less contrast, is blurred, shaded and noisy."""

CLASSES = ("background", "organ", "lesion")


def two_scanners(
    scanner: str = "a",
    train: bool = True,
    size: int = 256,
    image_size: int = 32,
    dimensions: int = 2,
    seed: int = 0,
) -> Arrays:
    """Images float32 [N, 1, S, S] (3-D: [N, 1, S, S, S]) and masks [N, S, S]: background 0, organ 1, lesion 2.

    An organ is an ellipsoid in the middle of the image; a smaller one inside of it is the lesion. A third body, as
    bright as the lesion, lies outside and is background, so brightness alone can't tell what is what.

    Args:
        scanner: "a" or "b".
        train: other images than without.
        size: images.
        image_size: of every axis, 8 at least.
        dimensions: 2 or 3.
        seed: decides the shapes and the noise.

    Raises:
        UsageError: an option is of another kind.
    """
    if scanner not in SCANNERS:
        known = did_you_mean(str(scanner), SCANNERS, what="Known")
        raise UsageError(f"two_scanners: there is no scanner {scanner!r}. {known}")
    if dimensions not in (2, 3):
        raise UsageError(f"two_scanners: dimensions must be 2 or 3, not {dimensions!r}")
    size, seed = whole("two_scanners: size", size, least=1), whole("two_scanners: seed", seed)
    length = whole("two_scanners: image_size", image_size, least=8)
    part = 1 if flag("two_scanners: train", train) else 2
    rows = np.arange(size)
    tissue, masks = _anatomy(Draws(key("anatomy", seed), part, rows), size, length, dimensions)
    images = _scanned(SCANNERS[scanner], tissue, Draws(key("scanner", scanner, seed), part, rows))
    return Arrays(images[:, None], masks, CLASSES, "two_scanners")


def _anatomy(draws: Draws, size: int, length: int, dimensions: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What tissue is where, [N, S, ...], and the masks: the same, with the body outside as background."""
    axis = (np.arange(length, dtype=np.float32) + 0.5) / length
    grid = np.stack(np.meshgrid(*[axis] * dimensions, indexing="ij"))[None]

    def drawn(low: float, high: float) -> Floats:
        numbers: Floats = (low + (high - low) * draws.uniform(dimensions)).astype(np.float32)
        return numbers

    def body(centre: Floats, radii: Floats) -> NDArray[np.bool_]:
        shape = (size, dimensions, *[1] * dimensions)
        inside: NDArray[np.bool_] = (((grid - centre.reshape(shape)) / radii.reshape(shape)) ** 2).sum(1) < 1
        return inside

    centre, radii = drawn(0.4, 0.6), drawn(0.2, 0.34)
    inner = drawn(0.35, 0.6) * radii
    organ = body(centre, radii)
    lesion = body(centre + drawn(-0.45, 0.45) * (radii - inner), inner) & organ
    side = np.where(draws.uniform(dimensions) < 0.5, 0.0, 1.0).astype(np.float32)
    other = body(np.abs(side - drawn(0.06, 0.16)), drawn(0.1, 0.16)) & ~organ
    masks = organ.astype(np.int64) + lesion
    return np.where(other, 2, masks), masks


def _scanned(scanner: Scanner, tissue: NDArray[np.int64], draws: Draws) -> Floats:
    """Images [N, S, ...] of tissue."""
    space = tissue.shape[1:]
    pixels = int(np.prod(space))
    image = np.asarray(scanner.brightness, np.float32)[tissue]
    image = image + np.float32(scanner.texture) * draws.normal(pixels).reshape(tissue.shape)
    for axis in range(1, image.ndim):
        for _ in range(scanner.blur):
            image = _smooth(image, axis)
    slope = (np.arange(space[-1], dtype=np.float32) / (space[-1] - 1) - 0.5) * np.float32(scanner.shading)
    noise = np.float32(scanner.noise) * draws.normal(pixels).reshape(tissue.shape)
    found: Floats = (image + slope + noise).astype(np.float32)
    return found


def _smooth(image: Floats, axis: int) -> Floats:
    """[1, 2, 1] / 4 along an axis; the border repeats."""
    length = image.shape[axis]
    before = np.take(image, np.r_[0, np.arange(length - 1)], axis)
    behind = np.take(image, np.r_[np.arange(1, length), length - 1], axis)
    smooth: Floats = (before + 2 * image + behind) / 4
    return smooth
