"""What the benchmarks of trainers share: models that cost something, and the loss as people write it by hand."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.alternate import Aim, Side, alternate, figures, ratios_table, times_table
from benchmarks.resnet import ResNet

TEMPERATURE, WEIGHTS = 4.0, (0.1, 0.9)
CONF: dict[str, Any] = {
    "distillation": {
        "train": {
            "criterion": {
                "KnowledgeDistillationLoss": {
                    "temperature": TEMPERATURE,
                    "loss_types": ["CE", "KL"],
                    "loss_weights": list(WEIGHTS),
                }
            }
        }
    }
}
CLASSES, ROWS = 100, 32
AT_MOST = 1.03
"""What the hooks in a trainer may cost, against the same trainer with the loss by hand."""


def student() -> nn.Module:
    torch.manual_seed(1)
    return ResNet(20, classes=CLASSES)


def teacher() -> nn.Module:
    torch.manual_seed(2)
    return ResNet(56, classes=CLASSES)


def rows(steps: int) -> tuple[Tensor, Tensor]:
    """As many images [N, 3, 32, 32] as these steps need, and their labels."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(steps * ROWS, 3, 32, 32, generator=generator)
    return x, torch.randint(CLASSES, (steps * ROWS,), generator=generator)


def by_hand(output: Tensor, taught: Tensor, loss: Tensor) -> Tensor:
    """The total of Hinton et al. 2015, as people write it."""
    soft = F.kl_div(
        F.log_softmax(output / TEMPERATURE, dim=1), F.softmax(taught / TEMPERATURE, dim=1), reduction="batchmean"
    )
    return WEIGHTS[0] * loss + WEIGHTS[1] * TEMPERATURE**2 * soft


def compared(trainer: str, hand: Side, hooks: Side, rounds: int) -> dict[str, Any]:
    """Both sides in turn, and their ratio beside what it may be."""
    name = f"{trainer} with kdhooks"
    sides = {f"{trainer}, the loss by hand": hand, name: hooks}
    return figures(alternate(sides, rounds), [Aim(name, f"{trainer}, the loss by hand", AT_MOST)])


def main(trainer: str, description: str | None, run: Callable[[int, int], dict[str, Any]]) -> None:
    """Measure a trainer as its command line says, and print."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=30)
    options = parser.parse_args()
    logging.getLogger("kdhooks").setLevel(logging.WARNING)  # no table an epoch
    found = run(options.steps, options.rounds)
    print(times_table(found, f"{trainer}, the loss by hand"))
    print(ratios_table(found["ratios"]))
