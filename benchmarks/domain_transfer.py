"""One run of the comparison of starting points: a small network on few labelled digits, from scratch or from MNIST.

What is counted is epochs: after how many the network is as good as the one from scratch is at its end.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import domain_digits
from benchmarks.domain_digits import Network
from kdhooks import Distillation
from kdhooks.datasets import build_dataset


@dataclass(frozen=True)
class Recipe:
    """What a run does.

    Attributes:
        pretrained: whether the network begins with the weights of one that was trained on MNIST.
        freeze: patterns of layers that stay as they came.
        labels: of digits, balanced over the classes; which ones, the seed decides.
        epochs: of training.
        rate: of Adam, constant.
        batch: images a step.
    """

    pretrained: bool = False
    freeze: tuple[str, ...] = ()
    labels: int = 100
    epochs: int = 60
    rate: float = 1e-3
    batch: int = 20

    def but(self, **changes: Any) -> Recipe:
        """The recipe with changes."""
        return replace(self, **changes)


@lru_cache(maxsize=1)
def source() -> Network:
    """The network that was trained on MNIST: one for all runs, with a seed that none of them has."""
    torch.manual_seed(1978)
    model, draw = Network(), domain_digits.Draw("mnist_5000", 1978)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    for _ in range(500):
        x, y = draw()
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def run(recipe: Recipe, seed: int) -> dict[str, Any]:
    """Train one network, and look at it after every epoch.

    Returns:
        ``curve``: accuracy on digits' test images after each epoch, in percent; ``report``: what was transferred;
        ``seconds`` of the training.
    """
    options = {**domain_digits.DATA["digits"], "train": True, "limit": None}
    data = build_dataset("digits", {**options, "labelled": recipe.labels, "labelled_seed": seed})
    rows = torch.from_numpy((data.targets >= 0).nonzero()[0])
    x, y = torch.from_numpy(data.inputs)[rows], torch.from_numpy(data.targets)[rows]
    start = source() if recipe.pretrained else None
    torch.manual_seed(seed)
    model = Network()
    optimizer = torch.optim.Adam(model.parameters(), recipe.rate)
    distiller, found = None, {}
    if start is not None:
        distiller = Distillation({"finetune": {"freeze": list(recipe.freeze)}}, student_model=model)
        distiller.pretrained_model = start
        distiller.on_train_begin(optimizer=optimizer)
        found["report"] = str(distiller.transfer_report).splitlines()[0]
    generator, curve, began = torch.Generator().manual_seed(seed), [], time.perf_counter()
    for _ in range(recipe.epochs):
        for part in torch.randperm(len(x), generator=generator).split(recipe.batch):
            output = model(x[part])
            loss = F.cross_entropy(output, y[part])
            if distiller is not None:
                loss = distiller.on_after_compute_loss(x[part], output, loss)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if distiller is not None:
            distiller.on_epoch_end()
        curve.append(domain_digits.accuracy(model, "digits"))
    if distiller is not None:
        distiller.on_train_end()
    return {**found, "curve": curve, "seconds": time.perf_counter() - began}


def epochs_to(curve: list[float], score: float) -> int | None:
    """The first epoch that is as good, counted from 1; None where none is."""
    return next((epoch for epoch, value in enumerate(curve, 1) if value >= score), None)
