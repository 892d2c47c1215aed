"""Augmentation that repeats: by row and epoch, whatever else is drawn, and without moving anybody's generator."""

from __future__ import annotations

import copy
import pickle
import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import kdhooks
from kdhooks.datasets.replayed import ReplayedAugmentation, replayed_in
from kdhooks.errors import DataError, UsageError


class Noisy:
    """Rows that draw from every global generator, and from one that is made of a global number."""

    def __init__(self, size: int = 6) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, row: int) -> dict[str, Any]:
        own = np.random.default_rng(np.random.randint(2**31))
        return {"image": np.random.rand(2, 2) + random.random(), "noise": (own.normal(), random.choice("abcdefgh"))}


class Keeps(Noisy):
    """Draws from a generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = np.random.default_rng(0)

    def __getitem__(self, row: int) -> bool:  # a flip: the same half of the time
        return bool(self.generator.random() < 0.5)


def flat(rows: list[dict[str, Any]]) -> list[Any]:
    return [(row["image"].tobytes(), *row["noise"]) for row in rows]


def test_it_repeats_every_so_many_epochs_and_not_before() -> None:
    data = kdhooks.ReplayedAugmentation(Noisy(), replays=3, seed=1978)
    epochs = []
    for epoch in range(6):
        data.set_epoch(epoch)
        epochs.append(flat([data[row] for row in range(len(data))]))
    assert epochs[:3] == epochs[3:]
    assert len({pixels for epoch in epochs[:3] for pixels in epoch}) == 18  # no two rows or epochs are alike
    other = ReplayedAugmentation(Noisy(), replays=3, seed=1979)
    assert flat([other[0]]) != flat([ReplayedAugmentation(Noisy(), replays=3, seed=1978)[0]])


def test_order_neighbours_and_other_draws_change_nothing() -> None:
    data = ReplayedAugmentation(Noisy(), replays=2)
    data.set_epoch(1)
    rows = flat([data[row] for row in range(6)])
    random.seed(3)
    np.random.seed(4)
    backwards = flat(data.__getitems__([5, 4, 3, 2, 1, 0]))
    assert backwards == rows[::-1]
    assert flat([data[-1]]) == rows[-1:]
    assert flat(data.rows([2, 2], 7)) == [rows[2]] * 2  # epoch 7 is epoch 1


def test_no_generator_is_moved() -> None:
    random.seed(3)
    np.random.seed(4)
    expected = random.random(), np.random.rand()
    random.seed(3)
    np.random.seed(4)
    data = ReplayedAugmentation(Noisy(), replays=2)
    data[0], data.__getitems__([1, 2]), list(data)
    with pytest.raises(KeyError):
        ReplayedAugmentation({1: 2}, replays=1)[0]  # the dataset's own error
    assert (random.random(), np.random.rand()) == expected


def test_passes_count_epochs_where_nobody_tells_them() -> None:
    data = ReplayedAugmentation(Noisy(), replays=2)
    epochs = [flat(list(data)) for _ in range(4)]
    assert epochs[0] == epochs[2] != epochs[1] == epochs[3]
    assert data.epoch == 3
    data.set_epoch(0)
    assert flat(list(data)) == epochs[0]
    assert data.epoch == 0


@pytest.mark.parametrize("dataset", [Keeps(), "unseeded"])
def test_what_seeds_do_not_reach_is_refused(dataset: Any) -> None:
    class Unseeded(Noisy):
        def __getitem__(self, row: int) -> Any:
            return np.random.default_rng().normal(size=2), "label"

    dataset = Unseeded() if dataset == "unseeded" else dataset
    data = ReplayedAugmentation(dataset, replays=2)
    with pytest.raises(DataError) as caught:
        for _ in range(2):
            list(data)
    number = int(str(caught.value).split()[1])
    assert str(caught.value) == (
        f"row {number} of {type(dataset).__name__} is another one when it is fetched again with the same seeds, so its "
        "augmentation can't be replayed: it draws from a generator that it keeps, or from one without a seed, as "
        "numpy.random.default_rng() is. Draw from the random module, NumPy's or torch's global generator, or make the "
        "generator in __getitem__ with a seed from one of these"
    )


def test_rows_of_every_form_are_compared_when_they_are_checked() -> None:
    rows = [float("nan"), np.array([np.nan, 1.0]), object(), {"a": [None, "b"]}, (1, b"x"), np.float32("nan"), None, ""]
    assert list(ReplayedAugmentation(rows, replays=1)) == rows


def test_wrong_arguments_are_told() -> None:
    for replays in (0, -1, True, 1.5, None):
        with pytest.raises(UsageError) as usage:
            ReplayedAugmentation(Noisy(), replays)  # type: ignore[arg-type]
        assert str(usage.value) == (
            f"ReplayedAugmentation: replays must be a whole number of at least 1, not {replays!r}"
        )
    with pytest.raises(DataError) as data:
        ReplayedAugmentation(iter([1]), 2)
    assert str(data.value) == (
        "ReplayedAugmentation needs rows with numbers, and a list_iterator has no __getitem__ and __len__"
    )
    with pytest.raises(UsageError) as negative:
        ReplayedAugmentation(Noisy(), 2).set_epoch(-1)
    assert str(negative.value) == "set_epoch needs a number of at least 0, not -1"


@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda data: pickle.loads(pickle.dumps(data))])
def test_a_copy_goes_on_from_the_epoch_by_itself(twin_of: Any) -> None:
    data = ReplayedAugmentation(Noisy(), replays=4)
    data.set_epoch(3)
    twin = twin_of(data)
    assert twin.epoch == 3
    data.set_epoch(1)
    assert (twin.epoch, data.epoch) == (3, 1)
    assert flat(twin.rows([0], 1)) == flat([data[0]])


def test_it_is_found_inside_of_loaders_and_subsets() -> None:
    class Holds:
        def __init__(self, dataset: Any = None, datasets: Any = None) -> None:
            self.dataset, self.datasets = dataset, datasets

    one, other = (ReplayedAugmentation(Noisy(), 2) for _ in range(2))
    loader = Holds(Holds(datasets=[Holds(one), other, one]))
    assert set(map(id, replayed_in(loader))) == {id(one), id(other)}
    assert list(replayed_in(one)) == [one]
    assert list(replayed_in(None)) == list(replayed_in([1, 2])) == []
    round_about = Holds()
    round_about.dataset = round_about
    assert list(replayed_in(round_about)) == []


def test_it_needs_no_framework() -> None:
    program = (
        "import sys, kdhooks, random\n"
        "data = kdhooks.ReplayedAugmentation([1, 2], replays=2)\n"
        "assert list(data) == [1, 2]\n"
        "assert not {'torch', 'tensorflow'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
