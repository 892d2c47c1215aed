"""Augmentation that repeats under a store: as many epochs compute the teacher as there are replays, and no more."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from kdhooks import Distillation, ReplayedAugmentation
from tests.torch.stored_runs import IMAGES, LABELS, LOGITS, ROWS, configured, student, teacher

EPOCHS, REPLAYS = 5, 2
NAMED = {
    "batch_size": 7,
    "shuffle": True,
    "dataset": {"dummy": {"shape": [2, 6, 6], "size": ROWS, "classes": 7}},
    "transform": [{"RandomCrop": {"padding": 1}}, "RandomHorizontalFlip", {"GaussianNoise": {"std": 0.1}}],
}


class Augmented(Dataset[Any]):
    """Rows that draw as a user's do."""

    def __len__(self) -> int:
        return ROWS

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return torch.roll(IMAGES[row], random.randrange(6), -1) + 0.1 * torch.randn(2, 6, 6), LABELS[row]


def own_loader(**options: Any) -> DataLoader[Any]:
    data = ReplayedAugmentation(Augmented(), replays=REPLAYS, seed=3)
    return DataLoader(data, batch_size=7, shuffle=True, **options)


def fitted(
    folder: Path, store: Path | None, loader: DataLoader[Any] | None, **train: Any
) -> tuple[nn.Module, list[int]]:
    """The student of a `fit()`, and how many rows the teacher computed in each epoch."""
    conf = configured(store, LOGITS)
    conf["distillation"]["train"] |= {"end_epoch": EPOCHS} | train
    conf["tuning"] = {"random_seed": 5, "workspace": {"path": str(folder)}}
    if loader is None:
        conf["distillation"]["train"]["dataloader"] = {**NAMED, "replays": REPLAYS}
    taught = teacher()
    distiller = Distillation(conf, student_model=student(), teacher_model=taught)
    distiller.train_dataloader = loader
    computed: list[int] = []
    distiller.register_hook("on_epoch_begin", lambda _: computed.append(0))

    def count(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if computed:
            computed[-1] += len(given[0])

    with taught.register_forward_pre_hook(count):
        return distiller.fit(), computed


Loader = Callable[[], "DataLoader[Any] | None"]
LOADERS: dict[str, Loader] = {
    "by name": lambda: None,
    "wrapped": own_loader,
    "workers": lambda: own_loader(num_workers=2, persistent_workers=True),
}


@pytest.mark.parametrize("kind", list(LOADERS))
def test_only_the_first_epochs_compute_rows(kind: str, tmp_path: Path) -> None:
    cold, computed = fitted(tmp_path / "cold", tmp_path / "store", LOADERS[kind]())
    warm, nothing = fitted(tmp_path / "warm", tmp_path / "store", LOADERS[kind]())
    assert computed == [ROWS, ROWS, 0, 0, 0]
    assert nothing == [0] * EPOCHS
    for name, value in cold.state_dict().items():
        assert torch.equal(value, warm.state_dict()[name])


def test_the_students_memory_format_finds_the_same_rows(tmp_path: Path) -> None:
    fitted(tmp_path / "plain", tmp_path / "store", None)
    _, computed = fitted(tmp_path / "last", tmp_path / "store", None, channels_last=True)
    assert computed == [0] * EPOCHS
