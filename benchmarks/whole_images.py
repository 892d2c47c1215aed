"""Images of a whole run: FashionMNIST as 3 × 32 × 32, its ResNet-56, and the plain loop that has no teacher.

The plain loop is made as fast as people write it: all images are normalised and padded once and lie in memory, and a
batch is cropped and mirrored in a few calls. It trains in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.resnet import ResNet
from kdhooks.datasets import Arrays, build_dataset, register_dataset
from kdhooks.datasets.arrays import limited

CLASSES, BATCH, PADDING, RATE = 10, 128, 4, 0.1
MOMENTUM, DECAY = 0.9, 5e-4
NAME = "fashion_32"


def images(rows: int, *, train: bool = True, synthetic: bool = False) -> Arrays:
    """FashionMNIST in three equal channels with a border of two pixels, [N, 3, 32, 32] of uint8, balanced rows.

    Args:
        rows: at most.
        train: the training images, or the test images.
        synthetic: noise instead, to try the program where the files are not.
    """
    if synthetic:
        draw = np.random.default_rng(int(train))
        pixels = draw.integers(0, 256, (rows, 3, 32, 32), dtype=np.uint8)
        return Arrays(pixels, draw.integers(0, CLASSES, rows), name=NAME)
    data = limited(build_dataset("FashionMNIST", {"train": train}), rows)
    single = np.asarray(data.inputs[np.arange(len(data))])
    padded = np.pad(single, ((0, 0), (0, 0), (2, 2), (2, 2)))
    return Arrays(np.repeat(padded, 3, axis=1), data.targets, data.classes, NAME)


def offer(rows: int, synthetic: bool) -> None:
    """Let configurations name the training images."""
    data = images(rows, synthetic=synthetic)
    register_dataset(NAME, lambda: data, replace=True)


TRANSFORMS: dict[str, Any] = {"RandomCrop": {"padding": PADDING}, "RandomHorizontalFlip": {}}


class InMemory:
    """Images as float32 from 0 to 1 with a border, and batches of random crops."""

    def __init__(self, data: Arrays) -> None:
        pixels = torch.from_numpy(np.asarray(data.inputs)).float().div_(255)
        self.padded = F.pad(pixels, (PADDING,) * 4)
        self.labels = torch.from_numpy(data.targets)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in another order, augmented anew."""
        for rows in torch.randperm(len(self.labels)).split(BATCH):
            yield self.crops(rows), self.labels[rows]

    def crops(self, rows: Tensor) -> Tensor:
        """Random crops of these rows, each mirrored or not."""
        down, right = torch.randint(2 * PADDING + 1, (2, len(rows)))
        windows = self.padded.unfold(2, 32, 1).unfold(3, 32, 1)
        cropped = windows[rows, :, down, right]
        mirrored = (torch.rand(len(rows)) < 0.5)[:, None, None, None]
        return torch.where(mirrored, cropped.flip(3), cropped)


def plain_loop(student: nn.Module, data: Arrays, epochs: int, *, fast: bool = False, rate: float = RATE) -> None:
    """Train without a teacher, as people write it: fp32, SGD with Nesterov's momentum, warm-up and a cosine.

    Args:
        student: what is trained, in place.
        data: the images.
        epochs: passes over them.
        fast: in bf16 and channels last, which is how the teacher is made.
        rate: the largest learning rate.
    """
    student.train()
    if fast:
        student.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    held = InMemory(data)
    optimizer = torch.optim.SGD(student.parameters(), lr=rate, momentum=MOMENTUM, nesterov=True, weight_decay=DECAY)
    steps = -(-len(data) // BATCH)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: shape(step, steps, epochs))
    for _ in range(epochs):
        for x, y in held.batches():
            if fast:
                x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=fast):
                loss = F.cross_entropy(student(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            scheduler.step()


def shape(step: int, steps: int, epochs: int) -> float:
    """The learning rate's share: one epoch of warm-up, then half a cosine."""
    if step < steps:
        return (step + 1) / steps
    return 0.5 * (1 + math.cos(math.pi * (step - steps) / max(1, steps * (epochs - 1))))


def teacher(
    folder: Path, *, depth: int = 56, rows: int = 60_000, epochs: int = 4, synthetic: bool = False
) -> nn.Module:
    """A ResNet that learned the images; made once and kept in a folder."""
    file = folder / f"resnet{depth}-{rows}-{epochs}{'-synthetic' if synthetic else ''}.pt"
    torch.manual_seed(56)
    model = ResNet(depth, classes=CLASSES)
    if not file.is_file():
        plain_loop(model, images(rows, synthetic=synthetic), epochs, fast=True)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(model.state_dict(), file)
    model = ResNet(depth, classes=CLASSES)
    model.load_state_dict(torch.load(file, weights_only=True))
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, data: Arrays) -> float:
    """Correct answers in percent, in fp32."""
    model.eval()
    found = 0
    for rows in np.array_split(np.arange(len(data)), max(1, len(data) // 500)):
        x = torch.from_numpy(np.asarray(data.inputs[rows])).float().div_(255)
        found += int((model(x).argmax(1) == torch.from_numpy(data.targets[rows])).sum())
    return 100 * found / len(data)
