"""One run of the comparison on digits: a small network, two domains, one method.

The network sees labelled images of the source and images of the target without labels. Every run looks at the target's
test images a fixed number of times; what stands in the tables is the last look, and the other looks say what a choice
of the epoch without labels would have got.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.datasets import build_dataset
from kdhooks.domains.validators import validate
from kdhooks.torch.adaptation import adapt_batch_norm

SIZE = 16
DATA: dict[str, dict[str, Any]] = {
    "mnist_5000": {"image_size": SIZE, "margin": 4},
    "digits": {"image_size": SIZE},
}
"""Both data sets at one size; MNIST's four empty pixels around are left off, for the digits have none."""

VALIDATORS = ("entropy", "SND", "information_maximization")
BATCH, LOOKS = 32, 10


@dataclass(frozen=True)
class Recipe:
    """What a run does.

    Attributes:
        criterion: of the section ``domain_adaptation``; empty for none.
        source: the data set with labels.
        target: the one without; "" trains on labels of the source alone.
        joint: both domains in one forward.
        options: more of the section ``domain_adaptation``.
        steps: of training.
        alone: of these, the first ones without adaptation.
        rate: of Adam, with a cosine to 0.
        statistics: BatchNorm's statistics are those of the target at each look (AdaBN).
        wide: channels of the first convolution.
    """

    criterion: Mapping[str, Any] = field(default_factory=dict)
    source: str = "mnist_5000"
    target: str = "digits"
    joint: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 480
    alone: int = 0
    rate: float = 2e-3
    statistics: bool = False
    wide: int = 16

    def but(self, **changes: Any) -> Recipe:
        """The recipe with changes."""
        return replace(self, **changes)


class Network(nn.Module):
    """Two convolutions and two linear layers, for images [N, 1, 16, 16]."""

    def __init__(self, wide: int = 16) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *_block(1, wide),
            *_block(wide, 2 * wide),
            nn.Flatten(),
            nn.Linear(2 * wide * (SIZE // 4) ** 2, 64),
            nn.ReLU(),
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def _block(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]


@lru_cache(maxsize=8)
def load(name: str, train: bool) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 16, 16] and labels [N]."""
    data = build_dataset(name, {**DATA[name], "train": train})
    return torch.from_numpy(data.inputs), torch.from_numpy(data.targets)


@torch.no_grad()
def logits_of(model: nn.Module, x: Tensor) -> Tensor:
    """Logits [N, 10] in eval mode; the mode is what it was afterwards."""
    was = model.training
    model.eval()
    found = torch.cat([model(part) for part in x.split(500)])
    model.train(was)
    return found


def accuracy(model: nn.Module, name: str) -> float:
    """Of the test images, in percent."""
    x, y = load(name, False)
    return 100 * float((logits_of(model, x).argmax(1) == y).float().mean())


class Draw:
    """Batches of a data set in an order that a seed decides, without end."""

    def __init__(self, name: str, seed: int) -> None:
        self.x, self.y = load(name, True)
        self._generator = torch.Generator().manual_seed(seed)
        self._rows = torch.empty(0, dtype=torch.int64)

    def __call__(self) -> tuple[Tensor, Tensor]:
        if len(self._rows) < BATCH:
            self._rows = torch.randperm(len(self.x), generator=self._generator)
        rows, self._rows = self._rows[:BATCH], self._rows[BATCH:]
        return self.x[rows], self.y[rows]


def distiller_of(recipe: Recipe) -> Distillation | None:
    """The hooks of a recipe, or None for a loop without."""
    if not recipe.criterion:
        return None
    section = {"criterion": dict(recipe.criterion), "joint_forward": recipe.joint, **recipe.options}
    section.setdefault("reversal", {"steps": recipe.steps - recipe.alone})
    return Distillation({"domain_adaptation": section})


def run(recipe: Recipe, seed: int) -> dict[str, Any]:
    """Train one network and look at it.

    Returns:
        ``curve``: accuracy on the target's test images at each look, in percent; ``validators``: for each its score on
        the target's training images, without labels; ``source``: accuracy on the source's test images at the end;
        ``domain_accuracy`` at the end, where there is a discriminator; ``seconds``.
    """
    torch.manual_seed(seed)
    model = Network(recipe.wide)
    optimizer = torch.optim.Adam(model.parameters(), recipe.rate, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    source, target = Draw(recipe.source, seed), Draw(recipe.target, seed + 1000)
    distiller, began = distiller_of(recipe), time.perf_counter()
    found: dict[str, Any] = {"curve": [], "validators": {name: [] for name in VALIDATORS}}
    for step in range(recipe.steps):
        x, y = source()
        if step == recipe.alone and distiller is not None:
            distiller.student_model = model
            distiller.on_train_begin(optimizer=optimizer)
        output = model(x)
        loss = F.cross_entropy(output, y)
        if distiller is not None and step >= recipe.alone:
            loss = distiller.on_after_compute_loss(x, output, loss, target=y, target_input=target()[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % (recipe.steps // LOOKS) == 0:
            _look(model, recipe, found)
    if distiller is not None:
        found["domain_accuracy"] = {k: v for k, v in distiller.losses.items() if k.endswith("domain_accuracy")}
        distiller.on_train_end()
    return {**found, "source": accuracy(model, recipe.source), "seconds": time.perf_counter() - began}


def _look(model: Network, recipe: Recipe, found: dict[str, Any]) -> None:
    images = load(recipe.target, True)[0]
    if recipe.statistics:
        adapt_batch_norm(model, images.split(500))
    found["curve"].append(accuracy(model, recipe.target))
    for name, score in validate(logits_of(model, images), VALIDATORS, rows=500).items():
        found["validators"][name].append(score)
