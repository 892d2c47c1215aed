"""Augmentation that repeats in the loaders of TensorFlow's side, with the draws of PyTorch's."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kdhooks import ReplayedAugmentation, register_dataset
from kdhooks.config.model import DataloaderSettings, Named
from kdhooks.errors import UsageError
from kdhooks_tf.data import build_dataloader
from kdhooks_tf.transforms import register_transform

ROWS = 20

pytestmark = pytest.mark.usefixtures("registrations_end_with_the_test")


class Augmented:
    """A user's dataset that draws from random and NumPy."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return np.random.rand(2, 3).astype(np.float32) + np.float32(random.random()), row


def built(name: str, *transforms: Named, size: int = 4, workers: int = 0, **options: Any) -> Any:
    dataset = Named(name, {"size": ROWS, "shape": [3, 6, 5]} if name == "dummy" else {})
    wanted = DataloaderSettings(
        batch_size=size, shuffle=True, dataset=dataset, transform=transforms, num_workers=workers, **options
    )
    return build_dataloader(wanted, seed=5)


def images_of(loader: Any, epoch: int, size: int = 4) -> dict[bytes, bytes]:
    """The pixels of an epoch's rows by the rows' unaugmented pixels."""
    plain = built("dummy", size=size)
    found = {}
    for one in (loader, plain):
        one.set_epoch(epoch)
    for (images, _), (before, _) in zip(loader, plain, strict=True):
        found |= {b.numpy().tobytes(): i.numpy().tobytes() for i, b in zip(images, before, strict=True)}
    return found


@pytest.mark.parametrize("workers", [0, 2])
def test_transforms_by_name_and_a_users_repeat_bit_for_bit(workers: int) -> None:
    register_transform("jitter", lambda: lambda batch, generator: batch + generator.random(batch.shape, np.float32))
    register_transform("shake", lambda: lambda batch: batch + np.float32(np.random.rand() + random.random()))
    every = (
        *(Named("RandomCrop", {"padding": 1}), Named("RandomHorizontalFlip"), Named("jitter"), Named("shake")),
        *(Named("RandomRotation", {"degrees": 20}), Named("GaussianNoise", {"std": 0.1})),
    )
    loader = built("dummy", *every, replays=2, workers=workers)
    epochs = [images_of(loader, epoch) for epoch in range(4)]
    assert epochs[0] == epochs[2] != epochs[1] == epochs[3]
    assert images_of(built("dummy", *every, replays=2, size=7), 3, 7) == epochs[1]
    orders = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        orders.append([tuple(labels.numpy()) for _, labels in loader])
    assert orders[0] != orders[2]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_users_dataset_by_name_is_replayed(wrapped: bool) -> None:
    register_dataset("augmented", lambda: ReplayedAugmentation(Augmented(), 2, seed=5) if wrapped else Augmented())
    options = {} if wrapped else {"replays": 2}
    epochs = []
    for epoch in range(4):
        loader = built("augmented", size=4 + epoch, **options)
        loader.set_epoch(epoch)
        epochs.append({int(row): image.numpy().tobytes() for x, y in loader for image, row in zip(x, y, strict=True)})
    assert epochs[0] == epochs[2] != epochs[1] == epochs[3]


def test_a_generator_serves_it_to_tf_data() -> None:
    data = ReplayedAugmentation(Augmented(), replays=2, seed=5)
    form = (tf.TensorSpec((2, 3), tf.float32), tf.TensorSpec((), tf.int64))
    batches = tf.data.Dataset.from_generator(lambda: iter(data), output_signature=form).batch(4)
    epochs = [np.concatenate([x.numpy() for x, _ in batches]) for _ in range(4)]  # each pass is the next epoch
    assert np.array_equal(epochs[0], epochs[2]) and np.array_equal(epochs[1], epochs[3])
    assert not np.array_equal(epochs[0], epochs[1])


def test_rows_without_numbers_cannot_be_replayed() -> None:
    register_dataset("stream", lambda: (pair for pair in [(1, 2)]))
    with pytest.raises(UsageError) as caught:
        build_dataloader(DataloaderSettings(dataset=Named("stream"), replays=2), seed=1)
    assert str(caught.value) == "replays needs rows with numbers, and the dataset 'stream' can only be iterated"
