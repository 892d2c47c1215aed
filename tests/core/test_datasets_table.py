"""Datasets by name: registration, options, filters, and the options that all of them share."""

from __future__ import annotations

import random
import subprocess
import sys

import numpy as np
import pytest

from kdhooks.datasets import DATASETS, FILTERS, Arrays, build_dataset, register_dataset, register_filter
from kdhooks.datasets.arrays import balanced_rows
from kdhooks.errors import DataError, UsageError


@pytest.fixture
def table():
    """Whatever a test registers is gone afterwards."""
    saved = [(t, dict(t._entries), dict(t._spelling)) for t in (DATASETS, FILTERS)]
    yield DATASETS
    for each, entries, spelling in saved:
        each._entries, each._spelling = entries, spelling


def small(targets=(0, 1, 2, 0, 1, 2, 0), classes=("a", "b", "c")):
    targets = np.array(targets)
    return Arrays(np.arange(len(targets), dtype=np.float32)[:, None], targets, classes, "small")


def test_the_names_that_a_configuration_can_use():
    assert list(DATASETS) == [
        "digits",
        "FashionMNIST",
        "MNIST",
        "mnist_5000",
        "CIFAR10",
        "CIFAR100",
        "ImageFolder",
        "npz",
        "two_scanners",
        "dummy",
    ]


def test_importing_the_room_loads_no_framework_and_no_optional_package():
    code = (
        "import sys, kdhooks.datasets; "
        "print(sorted({'torch', 'tensorflow', 'sklearn', 'PIL', 'urllib.request'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_a_registered_factory_is_found_in_any_spelling_and_gets_its_options(table):
    register_dataset("my_data", lambda split, size=2: [split] * size)
    assert build_dataset("My-Data", {"split": "x", "size": 3}) == ["x", "x", "x"]


def test_registering_a_taken_name_needs_replace(table):
    register_dataset("mine", lambda: [1])
    with pytest.raises(UsageError, match=r"^the dataset 'MINE' exists already; pass replace=True to replace it$"):
        register_dataset("MINE", lambda: [2])
    register_dataset("mine", lambda: [3], replace=True)
    assert build_dataset("mine") == [3]


def positional(path, /):
    return path


@pytest.mark.parametrize(
    ("name", "factory", "text"),
    [
        ("x", 3, "the dataset 'x' must be a callable that takes its options by keyword, not 3"),
        ("x", positional, "the dataset 'x' cannot take its parameter 'path' by keyword: it is positional-only"),
        (
            "x",
            lambda limit=3: limit,
            "the dataset 'x' has a parameter 'limit', which is an option of every dataset; give it another name",
        ),
        (" ", list, "the name of a dataset must be a non-empty string, not ' '"),
    ],
)
def test_a_factory_is_checked_when_it_is_registered(table, name, factory, text):
    with pytest.raises(UsageError) as caught:
        register_dataset(name, factory)
    assert str(caught.value) == text
    assert name not in DATASETS


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("FasionMNIST", {}, "unknown dataset 'FasionMNIST'. Did you mean 'FashionMNIST'?"),
        ("fashionmnist", {"trian": True}, "the dataset 'FashionMNIST' has no option 'trian'. Did you mean 'train'?"),
        ("digits", {"labeled": 3}, "the dataset 'digits' has no option 'labeled'. Did you mean 'labelled'?"),
        ("digits", {"train": "yes"}, "digits: train must be true or false, not 'yes'"),
        ("digits", {"test_fraction": 1.5}, "digits: test_fraction must be a number from 0.01 to 0.99, not 1.5"),
        ("npz", {}, "the dataset 'npz' needs the option 'path'"),
        ("dummy", {"limit": 0}, "dummy: limit must be a whole number of at least 1, not 0"),
        ("dummy", {"labelled": True}, "dummy: labelled must be a whole number of at least 0, not True"),
        ("dummy", {"labelled": 3, "labelled_seed": -1},
         "dummy: labelled_seed must be a whole number of at least 0, not -1"),
        ("dummy", {"shape": [1, 0]}, "dummy: shape must be positive whole numbers, not [1, 0]"),
        ("dummy", {"noise": "much"}, "dummy: noise must be a number of at least 0, not 'much'"),
        ("FashionMNIST", {"root": 3}, "FashionMNIST: root must be the path of a folder, not 3"),
    ],
)  # fmt: skip
def test_wrong_names_and_options_are_usage_errors_with_a_suggestion(name, options, text):
    with pytest.raises(UsageError) as caught:
        build_dataset(name, options)
    assert str(caught.value) == text


def test_shared_options_and_filters_need_arrays(table):
    register_dataset("plain", lambda: [1, 2, 3])
    with pytest.raises(UsageError) as caught:
        build_dataset("plain", {"limit": 2})
    assert str(caught.value) == (
        "the option 'limit' needs a dataset that is kdhooks.datasets.Arrays, and 'plain' is list"
    )
    with pytest.raises(UsageError) as caught:
        build_dataset("plain", {}, [("LabelBalance", {"size": 1})])
    assert str(caught.value) == "a filter needs a dataset that is kdhooks.datasets.Arrays, and 'plain' is list"
    assert build_dataset("plain", {"limit": None}) == [1, 2, 3]


def test_digits_are_split_the_same_way_every_time_and_balanced():
    train, test = build_dataset("digits"), build_dataset("digits", {"train": False})
    again = build_dataset("digits", {"train": False})
    assert train.inputs.shape == (1347, 1, 8, 8) and test.inputs.shape == (450, 1, 8, 8)
    assert train.inputs.dtype == np.float32 and train.inputs.min() == 0 and train.inputs.max() == 1
    assert np.array_equal(test.inputs, again.inputs) and np.array_equal(test.targets, again.targets)
    sizes = np.bincount(test.targets)
    whole_sizes = sizes + np.bincount(train.targets)
    assert np.abs(sizes - whole_sizes * 0.25).max() <= 0.5
    # These rows must not change between versions: published results rest on them.
    assert test.targets[:12].tolist() == [4, 3, 6, 0, 2, 9, 5, 0, 9, 8, 1, 0]
    everything = np.concatenate([train.inputs, test.inputs]).reshape(1797, -1).sum(1)
    from sklearn.datasets import load_digits

    assert np.allclose(np.sort(everything), np.sort(load_digits().data.sum(1) / 16))


def test_digits_without_scikit_learn_say_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(Exception) as caught:
        build_dataset("digits")
    assert str(caught.value) == "the dataset digits needs the package 'scikit-learn': pip install 'kdhooks[torch]'"


def test_dummy_data_can_be_learned_and_train_and_test_share_their_means():
    train = build_dataset("dummy", {"shape": [12], "classes": 3, "size": 300, "noise": 0.5})
    test = build_dataset("dummy", {"shape": [12], "classes": 3, "size": 300, "noise": 0.5, "train": False})
    assert train.inputs.shape == (300, 12) and train.inputs.dtype == np.float32
    assert not np.array_equal(train.inputs, test.inputs)
    means = np.stack([train.inputs[train.targets == c].mean(0) for c in range(3)])
    nearest = ((test.inputs[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (nearest == test.targets).mean() > 0.95
    other = build_dataset("dummy", {"shape": [12], "classes": 3, "size": 300, "seed": 1})
    assert not np.allclose(other.inputs.mean(0), train.inputs.mean(0), atol=0.1)
    assert build_dataset("dummy", {"shape": 5, "size": 2}).inputs.shape == (2, 5)


def test_labelled_keeps_balanced_labels_and_smaller_choices_are_part_of_larger_ones():
    full = build_dataset("dummy", {"size": 103})
    kept = {n: build_dataset("dummy", {"size": 103, "labelled": n, "labelled_seed": 4}) for n in (0, 7, 20, 103)}
    for count, data in kept.items():
        labelled = data.targets != -100
        assert labelled.sum() == count and len(data) == 103
        assert np.array_equal(data.targets[labelled], full.targets[labelled])
        assert np.array_equal(data.inputs, full.inputs)
    assert np.bincount(kept[20].targets[kept[20].targets >= 0]).tolist() == [2] * 10
    assert np.bincount(kept[7].targets[kept[7].targets >= 0]).max() == 1
    assert set(np.flatnonzero(kept[7].targets >= 0)) < set(np.flatnonzero(kept[20].targets >= 0))
    other = build_dataset("dummy", {"size": 103, "labelled": 20, "labelled_seed": 5})
    assert not np.array_equal(other.targets, kept[20].targets)


def test_labelled_cannot_keep_more_labels_than_there_are():
    with pytest.raises(DataError) as caught:
        build_dataset("dummy", {"size": 10, "labelled": 11})
    assert str(caught.value) == "dummy: cannot keep 11 labels, only 10 rows have one"


def test_limit_is_balanced_and_a_large_one_changes_nothing():
    data = build_dataset("dummy", {"size": 100, "limit": 30})
    assert np.bincount(data.targets).tolist() == [3] * 10
    assert len(build_dataset("dummy", {"size": 100, "limit": 1000})) == 100


def test_filters_see_the_true_labels_before_limit_and_labelled():
    options = {"size": 100, "labelled": 4, "limit": 8}
    filters = [("labels", {"keep": [3, "5"]}), ("LabelBalance", {"size": 6})]
    data = build_dataset("dummy", options, filters)
    assert len(data) == 8 and (data.targets != -100).sum() == 4
    assert set(data.targets) == {-100, 3, 5}


def test_label_balance_keeps_the_first_rows_of_each_class_and_all_unlabelled_ones():
    data = FILTERS["LabelBalance"](size=1)(small((0, 1, -100, 0, 1, -100, 2)))
    assert data.targets.tolist() == [0, 1, -100, -100, 2]
    assert data.inputs[:, 0].tolist() == [0, 1, 2, 5, 6]


@pytest.mark.parametrize(
    ("filters", "error", "text"),
    [
        ([("LabelBalanse", {})], UsageError, "unknown filter 'LabelBalanse'. Did you mean 'LabelBalance'?"),
        ([("LabelBalance", {"size": 0})], UsageError,
         "LabelBalance: size must be a whole number of at least 1, not 0"),
        ([("Labels", {"keep": []})], UsageError, "Labels: keep must be a list of class numbers or names, not []"),
        ([("Labels", {"keep": ["11"]})], DataError, "dummy has no class '11'. Did you mean '1'?"),
        ([("Labels", {"keep": [10]})], DataError, "dummy has no class 10. Its classes are 0 to 9"),
    ],
)  # fmt: skip
def test_wrong_filters(filters, error, text):
    with pytest.raises(error) as caught:
        build_dataset("dummy", {"size": 20}, filters)
    assert str(caught.value) == text


def test_a_users_filter_and_one_that_leaves_nothing(table):
    register_filter("first", lambda count: lambda data: data.select(np.arange(count)))
    assert len(build_dataset("dummy", {"size": 20}, [("first", {"": 3})])) == 3
    with pytest.raises(DataError) as caught:
        build_dataset("dummy", {"size": 20}, [("first", {"count": 0})])
    assert str(caught.value) == "dummy: no rows are left; loosen the filters"
    register_filter("bad", lambda: 3)
    with pytest.raises(UsageError) as caught:
        build_dataset("dummy", {"size": 20}, [("bad", {})])
    assert str(caught.value) == "the filter 'bad' must return a callable that maps Arrays to Arrays, not 3"


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: Arrays(np.zeros((2, 3)), np.zeros(2, int), (), "d"),
         "d: inputs must have the type uint8, float32 or int64 and the shape [N, ...], not float64 and [2, 3]"),
        (lambda: Arrays(np.zeros((2, 3), np.float32), np.zeros(2), (), "d"),
         "d: targets must be an array of whole numbers with the shape [N]"),
        (lambda: Arrays(np.zeros((2, 3), np.float32), np.zeros(3, int), (), "d"), "d: 2 inputs, but 3 targets"),
        (lambda: small((0, 3)), "small: the target 3 of row 1 is no class; they are 0 to 2, or -100 for none"),
        (lambda: small((0, -1), ()), "small: the target -1 of row 1 is no class; they are 0 or more, or -100 for none"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit_are_refused(make, text):
    with pytest.raises(DataError) as caught:
        make()
    assert str(caught.value) == text


def test_options_that_need_one_target_a_row():
    tokens = Arrays(np.zeros((2, 3), np.int64), np.zeros((2, 3), np.int64), (), "tokens")
    with pytest.raises(DataError) as caught:
        FILTERS["LabelBalance"](1)(tokens)
    assert str(caught.value) == "tokens: LabelBalance needs one target a row, and targets are [2, 3]"


def test_balanced_rows_serve_small_classes_whole():
    targets = np.array([0] * 50 + [1] * 3 + [2] * 10)
    chosen = balanced_rows(targets, 12, 7)
    assert np.bincount(targets[chosen]).tolist() == [5, 3, 4] or np.bincount(targets[chosen]).tolist() == [4, 3, 5]
    assert np.array_equal(chosen, np.unique(chosen))


def test_building_datasets_leaves_the_global_generators_alone():
    np.random.seed(3)
    random.seed(3)
    before = np.random.get_state()[1].copy(), random.getstate()
    build_dataset("digits", {"labelled": 50, "limit": 200})
    build_dataset("dummy", {"size": 64})
    assert np.array_equal(np.random.get_state()[1], before[0])
    assert random.getstate() == before[1]
