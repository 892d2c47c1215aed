"""One run of the comparison on two made-up scanners: a small UNet, CAC at its levels.

The network sees images of scanner a with masks and images of scanner b without; other shapes on both sides, so nothing
but the kind of anatomy is shared.
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
from kdhooks.torch.class_metrics import Dice
from kdhooks.torch.segmentation import make_unet, unet_levels

IMAGES, TESTED, BATCH, LOOKS, CLASSES = 256, 200, 8, 10, 3
ANATOMY = {"a": 0, "b": 1}
"""The seed of the shapes that each scanner sees."""


@dataclass(frozen=True)
class Recipe:
    """What a run does.

    Attributes:
        cac: options of CAC; empty for none.
        source: the scanner with masks.
        target: the one without.
        steps: of training.
        rate: of Adam, with a cosine to 0.
        channels: of the UNet.
        reversal: training steps of the warm start.
        norm: of the UNet.
    """

    cac: Mapping[str, Any] = field(default_factory=dict)
    source: str = "a"
    target: str = "b"
    steps: int = 600
    rate: float = 2e-3
    channels: tuple[int, ...] = (8, 16, 32)
    reversal: int = 600
    norm: str = "instance"

    def but(self, **changes: Any) -> Recipe:
        """The recipe with changes."""
        return replace(self, **changes)


@lru_cache(maxsize=8)
def load(scanner: str, train: bool) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 32, 32] and masks [N, 32, 32]."""
    size = IMAGES if train else TESTED
    data = build_dataset("two_scanners", {"scanner": scanner, "train": train, "size": size, "seed": ANATOMY[scanner]})
    return torch.from_numpy(data.inputs), torch.from_numpy(data.targets)


@torch.no_grad()
def dice(model: nn.Module, scanner: str) -> float:
    """The Dice score on a scanner's test images, organ and lesion alike, in percent."""
    was, metric = model.training, Dice(CLASSES)
    model.eval()
    for x, y in zip(*(part.split(50) for part in load(scanner, False)), strict=True):
        metric.update(model(x).movedim(1, -1).reshape(-1, CLASSES), y.reshape(-1))
    model.train(was)
    return 100 * float(metric.compute())


def distiller_of(recipe: Recipe, model: nn.Module) -> Distillation | None:
    """The hooks of a recipe, or None for a loop without."""
    if not recipe.cac:
        return None
    levels = unet_levels(model)
    cac = {"layers": levels.all, "encoder_levels": len(levels.encoder), **recipe.cac}
    conf = {"domain_adaptation": {"criterion": {"CAC": cac}, "reversal": {"steps": recipe.reversal}}}
    return Distillation(conf, student_model=model)


def run(recipe: Recipe, seed: int) -> dict[str, Any]:
    """Train one network and look at it.

    Returns:
        ``curve``: Dice on the target's test images at each look, in percent; ``source``: on the source's at the end;
        ``domain_accuracy`` of the discriminators at the end; ``seconds``.
    """
    torch.manual_seed(seed)
    model = make_unet(2, recipe.channels, classes=CLASSES, norm=recipe.norm)
    optimizer = torch.optim.Adam(model.parameters(), recipe.rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, recipe.steps)
    (x, y), (other, _) = load(recipe.source, True), load(recipe.target, True)
    draws, others = (torch.Generator().manual_seed(seed + more) for more in (0, 1000))
    distiller, began = distiller_of(recipe, model), time.perf_counter()
    if distiller is not None:
        distiller.on_train_begin(optimizer=optimizer)
    curve: list[float] = []
    for step in range(recipe.steps):
        rows = torch.randint(len(x), (BATCH,), generator=draws)
        output = model(x[rows])
        loss = F.cross_entropy(output, y[rows])
        if distiller is not None:
            there = other[torch.randint(len(other), (BATCH,), generator=others)]
            loss = distiller.on_after_compute_loss(x[rows], output, loss, target=y[rows], target_input=there)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if (step + 1) % (recipe.steps // LOOKS) == 0:
            curve.append(dice(model, recipe.target))
    found: dict[str, Any] = {"curve": curve, "source": dice(model, recipe.source)}
    if distiller is not None:
        found["domain_accuracy"] = {k: v for k, v in distiller.losses.items() if k.endswith("_accuracy")}
        distiller.on_train_end()
    return {**found, "seconds": time.perf_counter() - began}
