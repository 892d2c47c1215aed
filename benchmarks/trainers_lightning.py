"""What distillation costs in Lightning: the callback against the same trainer with the loss written by hand.

Both sides train a ResNet-20 on what a ResNet-56 says, batches of 32 made-up images. Timed are the steps of a fit
but for its first ones, from the beginning of one to the beginning of another: so all that the trainer and the
callbacks do in a step counts, and what a fit begins and ends with does not.

Run: python -m benchmarks.trainers_lightning [--steps 30] [--rounds 10] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.alternate import Aim, figures, ratios_table, times_table
from benchmarks.resnet import ResNet
from kdhooks import Distillation
from kdhooks.integrations.lightning import DistillationCallback

HAND, HOOKS, ALONE = "Lightning, the loss by hand", "Lightning with kdhooks", "Lightning, the student alone"
AT_MOST = 1.03
"""What the callback may cost, against the same trainer with the loss by hand."""
TEMPERATURE, WEIGHTS, ROWS, CLASSES, WARM_UP = 4.0, (0.1, 0.9), 32, 100, 3


class Alone(LightningModule):
    def __init__(self, teacher: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.model = ResNet(20, classes=CLASSES)
        self.taught = [teacher]  # in a list, so that it is no part of the module

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        return F.cross_entropy(self.model(x), y)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)


class ByHand(Alone):
    """The total of Hinton et al. 2015, as people write it."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        output = self.model(x)
        with torch.no_grad():
            taught = self.taught[0](x)
        log_student, soft = F.log_softmax(output / TEMPERATURE, 1), F.softmax(taught / TEMPERATURE, 1)
        divergence = F.kl_div(log_student, soft, reduction="batchmean") * TEMPERATURE**2
        return WEIGHTS[0] * F.cross_entropy(output, y) + WEIGHTS[1] * divergence


class Clock(Callback):
    """Notes when steps begin."""

    def __init__(self) -> None:
        self.began: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.began.append(time.perf_counter())


def seconds(side: str, steps: int, teacher: nn.Module, data: DataLoader[Any]) -> float:
    """The mean time of a step in one fit, in seconds."""
    clock = Clock()
    callbacks: list[Callback] = [clock]
    if side == HOOKS:
        options = {"temperature": TEMPERATURE, "loss_types": ["CE", "KL"], "loss_weights": list(WEIGHTS)}
        conf = {"distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": options}}}}
        callbacks.append(DistillationCallback(Distillation(conf, teacher_model=teacher)))
    module = (ByHand if side == HAND else Alone)(teacher)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1, "max_epochs": 1}
    Trainer(callbacks=callbacks, **quiet).fit(module, data)
    return (clock.began[-1] - clock.began[WARM_UP]) / (steps - 1)


def run(steps: int, rounds: int) -> dict[str, Any]:
    """Times of a step and their ratios, as `benchmarks.alternate.figures` has them.

    Args:
        steps: that are timed in each fit.
        rounds: how often each side fits; the sides take turns, and one more round before is not counted.
    """
    torch.manual_seed(0)
    teacher = ResNet(56, classes=CLASSES).eval()
    count = (steps + WARM_UP) * ROWS
    data = DataLoader(TensorDataset(torch.randn(count, 3, 32, 32), torch.randint(CLASSES, (count,))), batch_size=ROWS)
    times: dict[str, list[float]] = {HAND: [], HOOKS: [], ALONE: []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Lightning, about workers
        for number in range(-1, rounds):
            for side in times if number % 2 else reversed(list(times)):
                took = seconds(side, steps, teacher, data)
                if number >= 0:
                    times[side].append(took)
    return figures(times, [Aim(HOOKS, HAND, AT_MOST), Aim(ALONE, HAND)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for name in ("lightning.pytorch", "kdhooks"):
        logging.getLogger(name).setLevel(logging.ERROR)
    found = run(options.steps, options.rounds)
    print(times_table(found, HAND))
    print(ratios_table(found["ratios"]))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
