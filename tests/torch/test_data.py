"""Loaders: the same batches whatever the workers, from any epoch and batch, and nobody's generator drawn from."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from kdhooks.config.model import DataloaderSettings, Named
from kdhooks.datasets import DATASETS, Arrays, register_dataset
from kdhooks.errors import DataError, UsageError
from kdhooks.torch.data import build_dataloader

AUGMENTED = (
    Named("RandomCrop", {"padding": 1}),
    Named("RandomHorizontalFlip"),
    Named("RandomRotation", {"degrees": 20}),
    Named("GaussianNoise", {"std": 0.1}),
)


@pytest.fixture
def register():
    """Registers datasets that are gone after the test."""
    entries, spelling = dict(DATASETS._entries), dict(DATASETS._spelling)
    yield register_dataset
    DATASETS._entries, DATASETS._spelling = entries, spelling


def loader_of(name="dummy", options=None, *, seed=5, train=True, rank=0, world_size=1, **settings):
    options = {"size": 26} if options is None else options
    settings = DataloaderSettings(dataset=Named(name, options), **{"batch_size": 4, "shuffle": True, **settings})
    return build_dataloader(settings, seed=seed, train=train, rank=rank, world_size=world_size)


def epoch_of(loader, epoch, start=0):
    loader.set_epoch(epoch, start)
    return list(loader)


def assert_same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert len(left) == len(right) == 2
        assert all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


class Rows:
    """A user's map-style dataset that draws from every global generator, as torchvision's transforms do."""

    def __init__(self, size=26):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, row):
        if not isinstance(row, int):
            raise TypeError(row)
        noise = torch.rand(3) + random.random() + np.random.rand()
        return noise.float().add_(row).view(1, 1, 3), row


def test_batches_are_inputs_and_targets_in_the_datasets_order():
    loader = loader_of(shuffle=False)
    batches = list(loader)
    data = DATASETS["dummy"](size=26)
    assert isinstance(loader, DataLoader) and len(loader) == len(batches) == 7
    assert torch.equal(torch.cat([x for x, _ in batches]), torch.from_numpy(data.inputs))
    assert torch.equal(torch.cat([y for _, y in batches]), torch.from_numpy(data.targets))
    assert batches[0][0].dtype == torch.float32 and batches[0][1].dtype == torch.int64


@pytest.mark.parametrize("name", ["dummy", "rows"])
def test_workers_change_nothing(register, name):
    register("rows", Rows)
    alone = loader_of(name, transform=AUGMENTED)
    helped = loader_of(name, transform=AUGMENTED, num_workers=2)
    for epoch in (0, 1, 4):
        assert_same(epoch_of(alone, epoch), epoch_of(helped, epoch))
    assert_same(epoch_of(alone, 4, 3), epoch_of(helped, 4, 3))


@pytest.mark.parametrize("name", ["dummy", "rows"])
@pytest.mark.parametrize("last_batch", ["keep", "discard", "rollover"])
def test_resuming_in_an_epoch_equals_skipping(register, name, last_batch):
    register("rows", Rows)
    whole = epoch_of(loader_of(name, last_batch=last_batch, transform=AUGMENTED), 3)
    for start in (0, 2, len(whole)):
        fresh = loader_of(name, last_batch=last_batch, transform=AUGMENTED)
        fresh.batch_sampler.set_epoch(3, start_batch=start)
        assert_same(list(fresh), whole[start:])


def test_skipped_batches_are_not_fetched(register):
    fetched = []

    class Counted(Rows):
        def __getitem__(self, row):
            fetched.append(row)
            return super().__getitem__(row)

    register("counted", Counted)
    loader = loader_of("counted", shuffle=False)
    epoch_of(loader, 0, start=5)
    assert fetched == [20, 21, 22, 23, 24, 25]


def test_an_epoch_that_was_broken_off_does_not_change_the_next():
    loader = loader_of(num_workers=2)
    for _ in loader:
        break
    assert_same(epoch_of(loader, 1), epoch_of(loader_of(), 1))


def test_order_and_augmentation_change_by_epoch_and_seed():
    plain, augmented = loader_of(), loader_of(shuffle=False, transform=AUGMENTED)
    assert not torch.equal(epoch_of(plain, 0)[0][0], epoch_of(plain, 1)[0][0])
    assert not torch.equal(epoch_of(plain, 0)[0][0], epoch_of(loader_of(seed=6), 0)[0][0])
    assert not torch.equal(epoch_of(augmented, 0)[0][0], epoch_of(augmented, 1)[0][0])
    assert torch.equal(epoch_of(augmented, 1)[0][0], epoch_of(augmented, 1)[0][0])


def test_passes_without_set_epoch_are_epochs_of_their_own():
    loader = loader_of()
    passes = [list(loader) for _ in range(3)]
    for epoch, batches in enumerate(passes):
        assert_same(batches, epoch_of(loader_of(), epoch))


def test_rollover_serves_every_row_once_in_a_cycle_and_is_keep_in_evaluation():
    loader = loader_of(last_batch="rollover")
    served = [epoch_of(loader, epoch) for epoch in range(2)]
    assert [len(batches) for batches in served] == [6, 7]
    rows = torch.cat([inputs for batches in served for inputs, _ in batches]).flatten(1)
    assert len(rows) == 52 and len(rows.unique(dim=0)) == 26
    evaluation = list(loader_of(last_batch="rollover", train=False))
    assert [len(target) for _, target in evaluation] == [4] * 6 + [2]


def test_ranks_share_the_rows_only_where_asked():
    shares = [
        torch.cat([x for x, _ in loader_of(distributed=True, rank=rank, world_size=2)]).flatten(1) for rank in range(2)
    ]
    assert [len(share) for share in shares] == [13, 13] and len(torch.cat(shares).unique(dim=0)) == 26
    assert len(torch.cat([y for _, y in loader_of(rank=1, world_size=2)])) == 26


def generators_after(action: Callable[[], object]):
    torch.manual_seed(1), np.random.seed(2), random.seed(3)
    action()
    return torch.rand(4).tolist(), np.random.rand(4).tolist(), [random.random() for _ in range(4)]


class Stream(IterableDataset):
    def __init__(self, size=10):
        self.size = size

    def __iter__(self):
        return ((torch.full((1, 1, 2), float(row)), row) for row in range(self.size))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["dummy", "rows", "stream"])
def test_no_global_generator_is_drawn_from(register, name, workers):
    register("rows", Rows)
    register("stream", Stream)

    def iterate():
        transform = (*AUGMENTED[-1:], lambda batch: batch + torch.randn_like(batch))
        loader = loader_of(name, {}, shuffle=name != "stream", transform=transform, num_workers=workers)
        return [list(loader) for _ in range(2)]

    assert generators_after(iterate) == generators_after(lambda: None)


def test_images_of_bytes_become_floats_unless_the_list_says_when(register):
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    register("images", lambda: Arrays(images, np.array([0, 1]), name="images"))
    plain = next(iter(loader_of("images", {}, shuffle=False)))[0]
    assert plain.dtype == torch.float32 and torch.equal(plain, torch.from_numpy(images) / 255)
    late = loader_of("images", {}, shuffle=False, transform=(Named("CenterCrop", {"": 2}), Named("ToFloat")))
    assert torch.equal(next(iter(late))[0], torch.from_numpy(images)[:, :, 1:3, 1:3] / 255)
    register("tokens", lambda: Arrays(np.ones((2, 5), np.int64), np.array([0, 1]), name="tokens"))
    assert next(iter(loader_of("tokens", {})))[0].dtype == torch.int64


@pytest.mark.parametrize("workers", [0, 2])
def test_inputs_on_disk_are_read_batch_by_batch(tmp_path, workers):
    inputs = np.arange(60, dtype=np.float32).reshape(10, 6)
    np.savez(tmp_path / "data.npz", inputs=inputs, targets=np.arange(10))
    mapped = loader_of("npz", {"path": str(tmp_path / "data.npz"), "mmap": True}, num_workers=workers)
    for rows, targets in mapped:
        assert type(rows) is torch.Tensor and rows.tolist() == inputs[targets].tolist()
    for number in range(4):
        (tmp_path / "images" / f"class {number}").mkdir(parents=True)
        Image.new("RGB", (3, 2), (number * 50, 0, 255)).save(tmp_path / "images" / f"class {number}" / "one.png")
    images = loader_of("ImageFolder", {"root": str(tmp_path / "images")}, num_workers=workers)
    ((batch, targets),) = images
    assert batch.shape == (4, 3, 2, 3)
    torch.testing.assert_close(batch[:, 0, 0, 0], targets * 50 / 255)


def test_options_and_filters_of_the_dataset_are_applied():
    loader = loader_of(
        options={"size": 50, "labelled": 5}, filter=(Named("Labels", {"keep": [1, 2]}),), batch_size=10, shuffle=False
    )
    inputs, target = next(iter(loader))
    assert len(inputs) == 10 and (target != -100).sum() == 5 and set(target.tolist()) <= {-100, 1, 2}


def test_users_rows_are_collated_and_a_batch_fetch_of_theirs_is_used(register):
    asked = []

    class Fetching(Rows):
        def __getitems__(self, rows):
            asked.append(rows)
            return [{"x": torch.tensor([float(row)]), "labels": row} for row in rows]

    register("fetching", Fetching)
    batch = next(iter(loader_of("fetching", {"size": 3}, shuffle=False)))
    assert batch["x"].tolist() == [[0.0], [1.0], [2.0]] and batch["labels"].tolist() == [0, 1, 2]
    assert asked == [[0, 1, 2]]
    register("pairs", lambda: [(torch.zeros(2), 1)] * 5)
    assert [y.tolist() for _, y in loader_of("pairs", {})] == [[1, 1, 1, 1], [1]]
    register("tensors", lambda: TensorDataset(torch.arange(6.0).view(3, 2), torch.arange(3)))
    assert next(iter(loader_of("tensors", {}, shuffle=False)))[1].tolist() == [0, 1, 2]


def test_iterables_are_batched_transformed_and_resumed(register):
    register("stream", Stream)
    register("generator", lambda: ({"x": torch.ones(1), "labels": n} for n in range(3)))
    loader = loader_of("stream", shuffle=False, options={}, batch_size=4)
    assert [y.tolist() for _, y in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert [y.tolist() for _, y in epoch_of(loader, 2, 1)] == [[4, 5, 6, 7], [8, 9]]
    short = loader_of("stream", shuffle=False, options={}, last_batch="discard")
    assert [len(y) for _, y in short] == [4, 4]
    noisy = loader_of("stream", shuffle=False, options={}, transform=AUGMENTED)
    assert_same(epoch_of(noisy, 1)[1:], epoch_of(noisy, 1, 1))
    assert not torch.equal(epoch_of(noisy, 1)[0][0], epoch_of(noisy, 2)[0][0])
    assert [batch["labels"].tolist() for batch in loader_of("generator", {}, shuffle=False)] == [[0, 1, 2]]


@pytest.mark.parametrize(
    ("data", "settings", "error", "text"),
    [
        (Stream, {}, UsageError, "shuffle: true needs rows with numbers, and the dataset 'mine' can only be iterated"),
        (Stream, {"shuffle": False, "last_batch": "rollover"}, UsageError,
         "last_batch: rollover needs rows with numbers, and the dataset 'mine' can only be iterated"),
        (lambda: 7, {}, DataError,
         "the dataset 'mine' is a int, which has neither __getitem__ and __len__ nor __iter__"),
        (lambda: DataLoader([1]), {}, UsageError,
         "the dataset 'mine' is a DataLoader; return the dataset itself, or set a dataloader in Python"),
        (list, {}, DataError, "the dataset has no rows"),
    ],
)  # fmt: skip
def test_what_a_dataset_cannot_be_or_do(register, data, settings, error, text):
    register("mine", data)
    with pytest.raises(error) as caught:
        loader_of("mine", {}, **settings)
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("rows", "transform", "text"),
    [
        ([(torch.zeros(2), 0), (torch.zeros(3), 0)], (),
         "the rows of a batch do not fit together: stack expects each tensor to be equal size, but got [2] at entry 0 "
         "and [3] at entry 1"),
        ([{"x": torch.zeros(2)}], AUGMENTED,
         "transforms work on batches of (inputs, target), and this one is a mapping with the keys 'x'"),
        ([(torch.zeros(2), 0)], AUGMENTED, "RandomCrop needs images [N, C, H, W], and the batch is [1, 2]"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_a_batch(register, rows, transform, text):
    register("mine", lambda: rows)
    with pytest.raises(DataError) as caught:
        list(loader_of("mine", {}, transform=transform, shuffle=False))
    assert str(caught.value) == text


def test_an_error_in_a_worker_keeps_its_kind_and_text(register):
    register("mine", lambda: [(torch.zeros(2), 0), (torch.zeros(3), 0)])
    with pytest.raises(DataError, match="the rows of a batch do not fit together: stack expects each tensor"):
        list(loader_of("mine", {}, num_workers=1))


def test_a_loader_without_a_dataset():
    with pytest.raises(UsageError) as caught:
        build_dataloader(DataloaderSettings(), seed=0)
    assert str(caught.value) == (
        "the dataloader has no dataset: name one in the configuration, or set a dataloader in Python"
    )


def test_a_loaders_dataset_tells_the_names_of_its_classes(register):
    assert loader_of(options={"size": 4, "classes": 3}).dataset.classes == ("0", "1", "2")
    register("nameless", lambda: Arrays(np.zeros((4, 3), np.float32), np.zeros(4, np.int64)))
    assert loader_of("nameless", {}).dataset.classes is None
