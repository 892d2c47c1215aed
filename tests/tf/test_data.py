"""Loaders that a configuration describes: the batches of PyTorch's side, with images [N, H, W, C]."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from kdhooks.config.model import DataloaderSettings, Named
from kdhooks.datasets import Arrays, register_dataset
from kdhooks.datasets.draws import Draws
from kdhooks.errors import DataError, KDHooksError, UsageError
from kdhooks.torch.data import build_dataloader as build_for_torch
from kdhooks.torch.transforms import Pipeline as TorchPipeline
from kdhooks_tf.data import build_dataloader
from kdhooks_tf.transforms import TRANSFORMS, Pipeline, register_transform

pytestmark = pytest.mark.usefixtures("registrations_end_with_the_test")

EVERY: list[tuple[str, dict[str, Any]]] = [
    ("ToTensor", {}),
    ("Normalize", {"mean": [0.1, 0.2, 0.3], "std": 0.5}),
    ("Resize", {"size": [5, 12]}),
    ("Resize", {"size": [20, 3]}),
    ("CenterCrop", {"size": [4, 6]}),
    ("RandomCrop", {"size": [5, 7], "padding": 2}),
    ("RandomShift", {"pixels": 2}),
    ("RandomHorizontalFlip", {}),
    ("RandomRotation", {"degrees": 40}),
    ("RandomErasing", {"size": [3, 4], "p": 0.7}),
    ("GaussianNoise", {"std": 0.3}),
]


def test_every_transform_is_compared() -> None:
    assert {name for name, _ in EVERY} == set(TRANSFORMS)


@pytest.mark.parametrize(("name", "options"), EVERY)
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_a_transform_is_that_of_torch(name: str, options: dict[str, Any], dtype: Any) -> None:
    images = np.random.default_rng(1).uniform(0, 255, size=(6, 3, 9, 11)).astype(dtype)
    images = images / np.float32(255) if dtype is np.float32 else images
    rows = [5, 3, 8, 1, 0, 2]
    expected = TorchPipeline([Named(name, options)])(torch.tensor(images), Draws(7, 2, rows)).numpy()
    found = Pipeline([Named(name, options)])(images.transpose(0, 2, 3, 1), Draws(7, 2, rows))
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found.transpose(0, 3, 1, 2), expected, rtol=0, atol=2e-5)


SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "shuffled, dropped": {"shuffle": True, "last_batch": "discard"},
    "rolled over, augmented": {
        "shuffle": True, "last_batch": "rollover", "transform": (Named("RandomShift", {"": 1}),)},
}  # fmt: skip


@pytest.mark.parametrize("case", SETTINGS)
@pytest.mark.parametrize("threads", [0, 3])
def test_batches_are_those_of_torch(case: str, threads: int) -> None:
    how = DataloaderSettings(batch_size=16, dataset=Named("dummy", {"size": 50, "shape": [2, 6, 5]}), **SETTINGS[case])
    theirs = build_for_torch(how, seed=3)
    ours = build_dataloader(DataloaderSettings(**{**vars(how), "num_workers": threads}), seed=3)
    for epoch in (0, 1, 4):
        theirs.set_epoch(epoch, start_batch=1)
        ours.set_epoch(epoch, start_batch=1)
        assert len(ours) == len(theirs)
        for (x, y), (a, b) in zip(ours, theirs, strict=True):
            np.testing.assert_array_equal(x.numpy().transpose(0, 3, 1, 2), a.numpy())
            np.testing.assert_array_equal(y.numpy(), b.numpy())


def test_every_pass_is_the_next_epoch() -> None:
    how = DataloaderSettings(batch_size=4, shuffle=True, dataset=Named("dummy", {"size": 8}))
    loader = build_dataloader(how, seed=3)
    first, second = ([y.numpy().tolist() for _, y in loader] for _ in range(2))
    assert first != second
    loader.set_epoch(0)
    assert [y.numpy().tolist() for _, y in loader] == first


class Drawing:
    """Rows that draw from the process's generators."""

    def __len__(self) -> int:
        return 5

    def __getitem__(self, row: int) -> Any:
        return {"x": np.array([row, np.random.rand(), random.random()], np.float32), "labels": row}


def test_a_users_rows_draw_from_generators_of_their_own() -> None:
    register_dataset("drawing", Drawing)
    how = DataloaderSettings(batch_size=2, shuffle=True, dataset=Named("drawing"), num_workers=2)
    before, python = np.random.get_state()[1].tolist(), random.getstate()
    loader = build_dataloader(how, seed=3)
    passes = []
    for _ in range(2):
        loader.set_epoch(1)
        passes.append([(batch["x"].numpy().tolist(), batch["labels"].numpy().tolist()) for batch in loader])
    assert passes[0] == passes[1]
    assert sorted(label for _, labels in passes[0] for label in labels) == [0, 1, 2, 3, 4]
    assert (np.random.get_state()[1].tolist(), random.getstate()) == (before, python)


def test_rows_that_can_only_be_iterated() -> None:
    register_dataset("stream", lambda: ((np.array([n, n]), n) for n in range(5)))
    how = DataloaderSettings(batch_size=2, dataset=Named("stream"))
    found = [(x.numpy().tolist(), y.numpy().tolist()) for x, y in build_dataloader(how, seed=0)]
    assert found == [([[0, 0], [1, 1]], [0, 1]), ([[2, 2], [3, 3]], [2, 3]), ([[4, 4]], [4])]
    with pytest.raises(TypeError):
        len(build_dataloader(how, seed=0))


def test_a_transform_of_ones_own() -> None:
    register_transform("plus", lambda by=1.0: lambda batch, generator: batch + by * generator.integers(1, 9))
    register_transform("double", lambda: lambda batch: batch * 2)
    batch = np.ones((2, 3), np.float32)
    steps = [Named("plus", {"by": 10.0}), Named("double")]
    one, other = (Pipeline(steps)(batch, Draws(1, 0, [0, 1])) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert 22 <= one.min() == one.max() <= 182


@pytest.mark.parametrize(
    ("how", "kind", "text"),
    [
        ({}, UsageError,
         "the dataloader has no dataset: name one in the configuration, or set a dataloader in Python"),
        ({"dataset": Named("dumy")}, UsageError, "unknown dataset 'dumy'. Did you mean 'dummy'?"),
        ({"dataset": Named("dummy"), "distributed": True}, UsageError,
         "distributed: true is not part of the built-in loop for TensorFlow: use a tf.distribute strategy"),
        ({"dataset": Named("dummy"), "transform": (Named("Flip"),)}, UsageError,
         "unknown transform 'Flip'. Known names: CenterCrop, GaussianNoise, Normalize, RandomCrop, RandomErasing, "
         "RandomHorizontalFlip, RandomRotation, RandomShift, Resize, ToTensor"),
        ({"dataset": Named("once"), "shuffle": True}, UsageError,
         "shuffle: true needs rows with numbers, and the dataset 'once' can only be iterated"),
        ({"dataset": Named("nothing")}, DataError,
         "the dataset 'nothing' is a int, which has neither __getitem__ and __len__ nor __iter__"),
        ({"dataset": Named("ragged")}, DataError,
         "the rows of a batch do not fit together: all input arrays must have the same shape"),
        ({"dataset": Named("dummy", {"shape": 4}), "transform": (Named("RandomShift", {"": 1}),)}, DataError,
         "RandomCrop needs images [N, H, W, C], and the batch is [32, 4]"),
    ],
)  # fmt: skip
def test_what_cannot_be_served(how: dict[str, Any], kind: type[KDHooksError], text: str) -> None:
    register_dataset("once", lambda: iter([1]))
    register_dataset("nothing", lambda: 3)
    register_dataset("ragged", lambda: [(np.zeros(2), 0), (np.zeros(3), 1)])
    with pytest.raises(kind) as caught:
        list(build_dataloader(DataloaderSettings(**how), seed=0))
    assert str(caught.value) == text


def test_images_from_disk_are_channels_last(tmp_path: Any) -> None:
    images = np.arange(2 * 3 * 4 * 5, dtype=np.uint8).reshape(2, 3, 4, 5)
    register_dataset("images", lambda: Arrays(images, np.array([0, 1])))
    ((x, y),) = build_dataloader(DataloaderSettings(dataset=Named("images")), seed=0)
    np.testing.assert_array_equal(x.numpy(), images.transpose(0, 2, 3, 1) / np.float32(255))
    assert y.numpy().tolist() == [0, 1]


def test_a_loader_tells_the_names_of_its_classes() -> None:
    settings = DataloaderSettings(batch_size=2, dataset=Named("dummy", {"size": 4, "classes": 3}))
    assert build_dataloader(settings, seed=0).dataset.classes == ("0", "1", "2")
