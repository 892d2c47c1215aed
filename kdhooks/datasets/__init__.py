"""Datasets by name: NumPy only, no framework, nothing downloaded unless the configuration says so.

Rules: a factory in the table returns `Arrays` (or what a user likes), rows are chosen by seeds and never by a
global generator, and a damaged file is a `DataError` that names it.

>>> data = build_dataset("dummy", {"size": 8, "labelled": 2, "classes": 2})
>>> data.inputs.shape, sorted(set(data.targets.tolist()))
((8, 1, 8, 8), [-100, 0, 1])
"""

from __future__ import annotations

from kdhooks.datasets.arrays import UNLABELLED, Arrays
from kdhooks.datasets.cifar import cifar10, cifar100
from kdhooks.datasets.digits import load_digits
from kdhooks.datasets.dummy import make_dummy
from kdhooks.datasets.filters import FILTERS, register_filter
from kdhooks.datasets.folder import image_folder
from kdhooks.datasets.idx import fashion_mnist, mnist
from kdhooks.datasets.mnist_5000 import mnist_5000
from kdhooks.datasets.npz import load_npz
from kdhooks.datasets.scanners import two_scanners
from kdhooks.datasets.table import DATASETS, build_dataset, register_dataset

__all__ = [
    "DATASETS",
    "FILTERS",
    "UNLABELLED",
    "Arrays",
    "build_dataset",
    "register_dataset",
    "register_filter",
]

register_dataset("digits", load_digits)
register_dataset("FashionMNIST", fashion_mnist)
register_dataset("MNIST", mnist)
register_dataset("mnist_5000", mnist_5000)
register_dataset("CIFAR10", cifar10)
register_dataset("CIFAR100", cifar100)
register_dataset("ImageFolder", image_folder)
register_dataset("npz", load_npz)
register_dataset("two_scanners", two_scanners)
register_dataset("dummy", make_dummy)
