"""Augmentation that repeats, to the very pixels: in torch's loaders and workers, in ours, in `fit()` and bare loops."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, Subset

from kdhooks import Distillation, ReplayedAugmentation, register_dataset
from kdhooks.config.model import DataloaderSettings, Named
from kdhooks.errors import UsageError
from kdhooks.torch.data import EpochLoader, build_dataloader
from kdhooks.torch.transforms import register_transform
from tests.torch.training_runs import NOTHING, settings, student_model, teacher_model

ROWS = 20

pytestmark = pytest.mark.usefixtures("registrations_end_with_the_test")


class Augmented(Dataset[Any]):
    """A user's dataset: a crop drawn from torch as torchvision does, a flip from random, noise from NumPy."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = torch.arange(36.0).view(6, 6) + 100 * row
        top, left = torch.randint(0, 3, (2,)).tolist()
        image = image[top : top + 4, left : left + 4]
        image = image.flip(1) if random.random() < 0.5 else image
        return image + torch.from_numpy(np.random.normal(size=(4, 4))) + torch.rand(()), row


class Features(Augmented):
    """The same for a model of six features."""

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image, _ = super().__getitem__(row)
        return image.flatten()[:6].float() / 1000, row % 4


def by_row(batches: Any) -> dict[int, bytes]:
    """The pixels of every row of an epoch, by the row's number."""
    return {
        int(row): image.numpy().tobytes() for images, rows in batches for image, row in zip(images, rows, strict=True)
    }


def order(batches: Any) -> list[int]:
    return [int(row) for _, rows in batches for row in rows]


def loader_of(
    data: Any, workers: int = 0, context: str | None = None, size: int = 4, **options: Any
) -> DataLoader[Any]:
    return DataLoader(
        data, batch_size=size, shuffle=True, num_workers=workers, multiprocessing_context=context, **options
    )


@pytest.mark.parametrize(
    ("workers", "context", "persistent"),
    [(0, None, False), (2, "fork", False), (2, "fork", True), (2, "spawn", True)],
)
def test_the_pixels_of_a_row_repeat_whatever_loads_it(workers: int, context: str | None, persistent: bool) -> None:
    data = ReplayedAugmentation(Augmented(), replays=2, seed=1978)
    expected = [by_row([tuple(zip(*data.rows(range(ROWS), epoch), strict=True))]) for epoch in range(2)]
    loader = loader_of(data, workers, context, persistent_workers=persistent)
    orders = []
    for epoch in range(4):
        data.set_epoch(epoch)
        batches = list(loader)
        assert by_row(batches) == expected[epoch % 2]
        orders.append(order(batches))
    assert len({tuple(one) for one in orders}) == 4
    assert len(set(expected[0].values()) | set(expected[1].values())) == 2 * ROWS


def test_the_seed_has_an_effect_and_the_loops_generators_do_not() -> None:
    torch.manual_seed(1)
    one = ReplayedAugmentation(Augmented(), replays=2, seed=5)
    first = one[3][0]
    drawn = torch.rand(2)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(2), drawn)
    torch.manual_seed(99)
    assert torch.equal(ReplayedAugmentation(Augmented(), replays=2, seed=5)[3][0], first)
    assert not torch.equal(ReplayedAugmentation(Augmented(), replays=2, seed=6)[3][0], first)


def built(name: str, *transforms: Named, size: int = 4, workers: int = 0, **options: Any) -> EpochLoader:
    dataset = Named(name, {"size": ROWS, "shape": [3, 6, 5], "classes": ROWS} if name == "dummy" else {})
    wanted = DataloaderSettings(
        batch_size=size, shuffle=True, dataset=dataset, transform=transforms, num_workers=workers, **options
    )
    return build_dataloader(wanted, seed=5)


def images_of(loader: Any, epoch: int) -> dict[bytes, bytes]:
    """The pixels of an epoch's rows by the rows' unaugmented pixels: dummy's labels are not unique."""
    loader.set_epoch(epoch)
    plain = built("dummy", size=loader.batch_sampler.batch_size)
    plain.set_epoch(epoch)
    found = {}
    for (images, _), (before, _) in zip(loader, plain, strict=True):
        found |= {b.numpy().tobytes(): i.numpy().tobytes() for i, b in zip(images, before, strict=True)}
    return found


EVERY = (
    Named("RandomCrop", {"padding": 1}),
    Named("RandomShift", {"pixels": 1}),
    Named("RandomHorizontalFlip"),
    Named("RandomRotation", {"degrees": 20}),
    Named("RandomErasing", {"size": 2, "p": 0.5}),
    Named("GaussianNoise", {"std": 0.1}),
    Named("Normalize", {"mean": 0.4, "std": 0.3}),
)


@pytest.mark.parametrize("workers", [0, 2])
def test_transforms_by_name_repeat_bit_for_bit_in_batches_of_any_size(workers: int) -> None:
    loader = built("dummy", *EVERY, replays=2, workers=workers)
    epochs = [images_of(loader, epoch) for epoch in range(4)]
    assert epochs[0] == epochs[2] != epochs[1] == epochs[3]
    assert images_of(built("dummy", *EVERY, replays=2, size=7), 3) == epochs[1]
    assert images_of(built("dummy", *EVERY), 0) == epochs[0]  # without replays the same draws, of another epoch each
    assert images_of(built("dummy", *EVERY), 2) != epochs[0]
    orders = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        orders.append([tuple(labels.tolist()) for _, labels in loader])
    assert orders[0] != orders[2]


@pytest.mark.parametrize("takes_generator", [True, False])
def test_a_users_transform_is_replayed_row_by_row(takes_generator: bool) -> None:
    def with_generator(batch: Tensor, generator: torch.Generator) -> Tensor:
        return batch + torch.rand(batch.shape, generator=generator)

    def with_globals(batch: Tensor) -> Tensor:
        return batch + torch.rand(batch.shape) + random.random() + np.random.rand()

    register_transform("jitter", lambda: with_generator if takes_generator else with_globals)
    loader = built("dummy", Named("jitter"), Named("jitter"), replays=2)
    epochs = [images_of(loader, epoch) for epoch in range(4)]
    assert epochs[0] == epochs[2] != epochs[1] == epochs[3]
    assert images_of(built("dummy", Named("jitter"), Named("jitter"), replays=2, size=3), 1) == epochs[1]
    assert images_of(built("dummy", Named("jitter"), Named("jitter")), 0) != epochs[0]  # drawn for a batch


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_users_dataset_by_name_is_replayed(workers: int, wrapped: bool) -> None:
    def make() -> Any:
        return ReplayedAugmentation(Augmented(), replays=2, seed=5) if wrapped else Augmented()

    register_dataset("augmented", make)
    options = {} if wrapped else {"replays": 2}
    loader = built("augmented", workers=workers, **options)
    epochs, orders = [], []
    for epoch in range(4):
        loader.set_epoch(epoch)
        batches = list(loader)
        epochs.append(by_row(batches))
        orders.append(order(batches))
    assert epochs[0] == epochs[2] != epochs[1] == epochs[3]
    assert orders[0] != orders[2]
    loader.set_epoch(3, start_batch=2)  # as a resumed run begins
    rest = by_row(loader)
    assert rest == {row: epochs[1][row] for row in orders[3][8:]}
    other = built("augmented", size=5, **options)
    other.set_epoch(2)
    assert by_row(other) == epochs[0]


def test_rows_without_numbers_cannot_be_replayed() -> None:
    register_dataset("stream", lambda: (pair for pair in [(1, 2)]))
    with pytest.raises(UsageError) as caught:
        build_dataloader(DataloaderSettings(dataset=Named("stream"), replays=2), seed=1)
    assert str(caught.value) == "replays needs rows with numbers, and the dataset 'stream' can only be iterated"


class Told(ReplayedAugmentation):
    """Writes down the epoch of every row that it serves."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.epochs: list[int] = []

    def rows(self, rows: Any, epoch: int) -> list[Any]:
        self.epochs.append(epoch)
        return super().rows(rows, epoch)


Wrap = Callable[[Any], Any]


@pytest.mark.parametrize("wrap", [lambda data: data, lambda data: Subset(ConcatDataset([data]), list(range(8)))])
def test_fit_tells_the_epoch(wrap: Wrap, tmp_path: Path) -> None:
    data = Told(Features(), replays=2)
    conf = settings(tmp_path, criterion=NOTHING, start_epoch=1, end_epoch=4)
    distiller = Distillation(conf, student_model=student_model(), teacher_model=teacher_model())
    distiller.train_dataloader = loader_of(wrap(data), size=8)
    distiller.fit()
    assert sorted(set(data.epochs)) == [1, 2, 3]
    assert data.epochs == sorted(data.epochs)


@pytest.mark.parametrize("says_begin", [True, False])
def test_a_bare_loop_tells_the_epoch_by_its_events(says_begin: bool) -> None:
    data = Told(Features(), replays=2)
    loader = loader_of(data, size=10)
    distiller = Distillation(student_model=student_model(), teacher_model=teacher_model())
    distiller.on_train_begin(loader)
    for epoch in range(3):
        if says_begin:
            distiller.on_epoch_begin(epoch)
        train_epoch(distiller, loader)
        distiller.on_epoch_end()
    assert data.epochs == [0, 0, 1, 1, 2, 2]
    state = distiller.state_dict()
    distiller.on_train_end()

    again = Told(Features(), replays=2)
    loader = loader_of(again, size=10)
    resumed = Distillation(student_model=student_model(), teacher_model=teacher_model())
    resumed.load_state_dict(state)
    resumed.on_train_begin(loader)
    train_epoch(resumed, loader)
    assert set(again.epochs) == {3}
    resumed.on_train_end()


def train_epoch(distiller: Distillation, loader: Any) -> None:
    for x, y in loader:
        output = distiller.student_model(x)
        distiller.on_after_compute_loss(x, output, torch.nn.functional.cross_entropy(output, y)).backward()


def test_stored_outputs_would_belong_to_other_pixels_without_it(tmp_path: Path) -> None:
    """What goes wrong where a seed doesn't reach the transforms: logits kept by (row, epoch mod K) are of others."""
    teacher = torch.nn.Linear(16, 3, dtype=torch.float64)

    def kept_and_live(data: Any) -> list[tuple[Tensor, Tensor]]:
        kept: dict[tuple[int, int], Tensor] = {}
        pairs = []
        for epoch in range(4):
            if isinstance(data, ReplayedAugmentation):
                data.set_epoch(epoch)
            for images, rows in loader_of(data):
                for row, logits in zip(rows.tolist(), teacher(images.flatten(1)).detach(), strict=True):
                    if epoch < 2:
                        kept[row, epoch] = logits
                    else:
                        pairs.append((kept[row, epoch % 2], logits))
        return pairs

    torch.manual_seed(0)
    pairs = kept_and_live(ReplayedAugmentation(Augmented(), replays=2))
    torch.testing.assert_close(*map(torch.stack, zip(*pairs, strict=True)))
    others = kept_and_live(Augmented())
    assert not any(torch.allclose(one, other) for one, other in others)
