"""A small space of convolutional networks on FashionMNIST, and a teacher: what `benchmarks.search_flash` trains.

Rules: everything random comes from a seed. The networks have no BatchNorm: a deep one begins slowly then, and that is
what distilling it block by block is for.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.resnet import ResNet
from kdhooks.datasets import build_dataset

SPACE: dict[str, tuple[int, ...]] = {"width": (4, 6, 8, 12), "first": (1, 3), "second": (1, 3)}
"""Channels of the first block, twice as many in the second; convolutions in each."""

IMAGES, BATCH = 10_000, 32
MEAN, DEVIATION = 0.2860, 0.3530
Arch = Mapping[str, Any]


@dataclass(frozen=True)
class Plan:
    """What is the same for all candidates.

    Attributes:
        steps: of a short training, in both ways.
        flash: of these, for each of the two flash stages.
        guided: whether a flash stage trains the whole network with the labels' loss too, and not its block alone.
        loss: of a flash stage, between the block's output and that of the teacher's.
        flash_weight: of that loss.
        rate: of Adam, with a cosine to 0.
        flash_rate: of the stages of the blocks.
        weight: of the teacher's term in the regular stage, beside the labels' with 1.
        temperature: of the teacher's term.
        images: that candidates are trained with.
        teacher_epochs: over all 60,000 images.
        tested: images that accuracy is measured on.
        teacher_width: its channels in the first of three stages.
        setting: names what short trainings without a teacher share with other plans; "" is that of the first plans.
        drawn: whether a seed draws the images from all 60,000, and they are not the first ones.
        long_steps: of a long training; None is `benchmarks.search_flash.LONGER` times `steps`.
        long_images: that it has; None is `images`.
        stored: whether the teacher's outputs are kept on disk for all candidates and steps.
    """

    steps: int = 120
    flash: int = 12
    guided: bool = False
    loss: str = "similarity_preserving"
    flash_weight: float = 1.0
    rate: float = 6e-3
    flash_rate: float = 6e-3
    weight: float = 2.0
    temperature: float = 2.0
    images: int = IMAGES
    teacher_epochs: float = 1.0
    tested: int = 5_000
    teacher_width: int = field(default=8, repr=False)
    setting: str = field(default="", repr=False)
    drawn: bool = field(default=False, repr=False)
    long_steps: int | None = field(default=None, repr=False)
    long_images: int | None = field(default=None, repr=False)
    stored: bool = field(default=False, repr=False)

    @property
    def teacher_name(self) -> str:
        """Finds what is kept of the teacher."""
        width = "" if self.teacher_width == 8 else f" {self.teacher_width}"
        return f"teacher {self.teacher_epochs:g}{width}"


@dataclass
class Batches:
    """Images [B, 1, 28, 28] and labels [B], `count` batches each time it is gone through, always new ones.

    Attributes:
        images: how many of the training images.
        seed: of their order.
        count: batches that an epoch has.
        size: rows of a batch.
        drawn: whether the seed draws them too; else they are the first ones.
    """

    images: int
    seed: int
    count: int
    size: int = BATCH
    drawn: bool = False
    _rows: Iterator[Tensor] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._rows = self._endless()

    def _endless(self) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        mine = torch.arange(self.images)
        if self.drawn:
            mine = torch.randperm(len(load(True)[1]), generator=generator)[: self.images]
        while True:
            order = mine[torch.randperm(self.images, generator=generator)]
            yield from (order[at : at + self.size] for at in range(0, self.images - self.size + 1, self.size))

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        x, y = load(True)
        return ((x[rows], y[rows]) for rows in itertools.islice(self._rows, self.count))


@lru_cache(maxsize=2)
def load(train: bool) -> tuple[Tensor, Tensor]:
    """All images [N, 1, 28, 28], normalised, and labels [N]."""
    data = build_dataset("FashionMNIST", {"train": train})
    pixels = torch.from_numpy(data.inputs).float().view(-1, 1, 28, 28) / 255
    return (pixels - MEAN) / DEVIATION, torch.from_numpy(data.targets)


def candidates() -> list[dict[str, int]]:
    """All points of the space."""
    return [dict(zip(SPACE, point, strict=True)) for point in itertools.product(*SPACE.values())]


class Network(nn.Module):
    """Two blocks at 14 × 14 and 7 × 7, an average, and the classes; [N, 1, 28, 28] to logits [N, 10]."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        width = int(arch["width"])
        self.block1 = _block(1, width, int(arch["first"]))
        self.block2 = _block(width, 2 * width, int(arch["second"]))
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block2(self.block1(x)).mean((2, 3)))
        return logits


def _block(channels: int, width: int, count: int) -> nn.Sequential:
    """`count` convolutions; the first halves the map."""
    layers: list[nn.Module] = []
    for index in range(count):
        layers += [nn.Conv2d(width if index else channels, width, 3, 1 if index else 2, 1), nn.ReLU()]
    return nn.Sequential(*layers)


def network(arch: Arch, seed: int) -> Network:
    """A candidate with its initial weights."""
    torch.manual_seed(seed)
    made = Network(arch)
    for layer in made.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    return made


@torch.no_grad()
def accuracy(model: nn.Module, limit: int, last: bool = False) -> float:
    """Correct answers on so many of the first (or last) test images in percent."""
    x, y = (part[-limit:] if last else part[:limit] for part in load(False))
    model.eval()
    found = torch.cat([model(some).argmax(1) for some in x.split(500)])
    model.train()
    return 100 * float((found == y).float().mean())


def fit(model: nn.Module, batches: Batches, rate: float) -> None:
    """A plain loop with labels: Adam with a cosine to 0."""
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(batches))
    for x, y in batches:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()


@cache
def teacher(plan: Plan, folder: Path) -> nn.Module:
    """A ResNet-8, from its file or trained with all images and written there."""
    torch.manual_seed(0)
    model = ResNet(8, classes=10, channels=1, width=plan.teacher_width)
    path = folder / f"search-{plan.teacher_name.replace(' ', '-')}.pt"
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    count = len(load(True)[1])
    fit(model, Batches(count, 0, round(plan.teacher_epochs * count / 64), 64), 3e-3)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model
