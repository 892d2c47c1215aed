"""Handwritten digits that come with scikit-learn: real data without a download."""

from __future__ import annotations

import random

import numpy as np

from kdhooks.datasets.arrays import Arrays
from kdhooks.datasets.options import flag, height_width, number, whole
from kdhooks.datasets.resizing import resized
from kdhooks.datasets.splitting import split_rows
from kdhooks.errors import MissingPackageError


def load_digits(
    train: bool = True, test_fraction: float = 0.25, image_size: int | list[int] = 8, split_seed: int = 0
) -> Arrays:
    """1,797 images of digits, float32 [N, 1, 8, 8] from 0 to 1, 10 classes.

    Args:
        train: the training rows, else the test rows. The split is always the same, and balanced over the classes.
        test_fraction: of every class, from 0.01 to 0.99.
        image_size: height and width, one number or two; other than 8 is interpolated.
        split_seed: another split than everybody's.

    Raises:
        MissingPackageError: scikit-learn is not installed.
        UsageError: an option is of another kind.

    Source: Alpaydin and Kaynak, "Optical recognition of handwritten digits", UCI, 1998 (its test part).
    """
    state = random.getstate()
    try:
        from sklearn import datasets as sklearn_datasets
    except ImportError:
        raise MissingPackageError("scikit-learn", "the dataset digits", "torch") from None
    finally:
        random.setstate(state)  # its first import draws from the user's generator
    train = flag("digits: train", train)
    fraction = number("digits: test_fraction", test_fraction, least=0.01, most=0.99)
    size, seed = height_width("digits: image_size", image_size), whole("digits: split_seed", split_seed)
    images, targets = sklearn_datasets.load_digits(return_X_y=True)
    rows = split_rows(targets, "digits", fraction, seed, train)
    inputs = resized((images[rows].reshape(-1, 1, 8, 8) / 16).astype(np.float32), size)
    return Arrays(inputs, targets[rows].astype(np.int64), tuple("0123456789"), "digits")
