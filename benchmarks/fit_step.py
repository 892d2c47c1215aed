"""What a step of `fit()` costs in low precision and channels last, against loops written by hand.

ResNet-20, batch 128 of 3 x 32 x 32, no teacher. Three sides take turns, an epoch each: the plain fp32 loop, a loop by
hand in bf16 and channels last, and `fit()` with the same settings on the same batches; with ``--augment`` the batches
of all sides come from the built-in loader with RandomCrop and a flip. Ratios are medians of the rounds' own ratios.

Run: python -m benchmarks.fit_step [--rounds 10] [--steps 20] [--threads 2] [--augment] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.machine import processor
from benchmarks.resnet import resnet20
from kdhooks import Distillation
from kdhooks.config.model import DataloaderSettings, Named
from kdhooks.torch.data import build_dataloader

RATE, MOMENTUM = 0.01, 0.9
Epoch = Callable[[], float]
"""Trains for an epoch and returns its seconds."""


def loader(steps: int, batch: int, augment: bool) -> Iterable[Any]:
    """Batches of images like CIFAR's: always the same, or drawn and augmented by the built-in loader."""
    if not augment:
        generator = torch.Generator().manual_seed(0)
        one = [torch.randn(batch, 3, 32, 32, generator=generator) for _ in range(min(steps, 8))]
        labels = [torch.randint(100, (batch,), generator=generator) for _ in one]
        return [(one[step % len(one)], labels[step % len(one)]) for step in range(steps)]
    transforms = (Named("RandomCrop", {"padding": 4}), Named("RandomHorizontalFlip"))
    data = Named("dummy", {"shape": [3, 32, 32], "size": batch * steps, "classes": 100})
    return build_dataloader(
        DataloaderSettings(batch_size=batch, shuffle=True, dataset=data, transform=transforms), seed=1
    )


def by_hand(batches: Iterable[Any], *, bf16: bool) -> Epoch:
    """An epoch as people write it; in bf16 with channels last."""
    student = resnet20()
    if bf16:
        student.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(student.parameters(), lr=RATE, momentum=MOMENTUM)

    def epoch() -> float:
        began = time.perf_counter()
        for x, y in batches:
            if bf16:
                x = x.contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = F.cross_entropy(student(x).float(), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - began

    return epoch


class Fit:
    """`fit()` on a loader that lets the other sides run between its epochs."""

    def __init__(self, batches: Iterable[Any], others: list[Epoch], rounds: int) -> None:
        self._batches, self._others, self._rounds = batches, others, rounds
        self.times: list[list[float]] = []  # of the rounds: each of the others, then fit's

    def run(self) -> None:
        """Train for so many rounds and one more that is not counted."""
        train = {
            "end_epoch": self._rounds + 1,
            "precision": "bf16",
            "channels_last": True,
            "criterion": {"KnowledgeDistillationLoss": {"loss_weights": [1.0, 0.0]}},
            "optimizer": {"SGD": {"learning_rate": RATE, "momentum": MOMENTUM}},
        }
        with tempfile.TemporaryDirectory() as folder:
            conf = {"distillation": {"train": train}, "tuning": {"workspace": {"path": folder}}}
            distiller = Distillation(conf, student_model=resnet20())
            distiller.train_dataloader = self._batches
            distiller.register_hook("on_epoch_begin", lambda _: self._begin())
            distiller.register_hook("on_epoch_end", lambda _: self._end())
            distiller.fit()

    def _begin(self) -> None:
        self.times.append([epoch() for epoch in self._others])
        self._began = time.perf_counter()

    def _end(self) -> None:
        self.times[-1].append(time.perf_counter() - self._began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--augment", action="store_true")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    logging.getLogger("kdhooks").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    sides = [loader(options.steps, options.batch, options.augment) for _ in range(3)]
    others = [by_hand(sides[0], bf16=False), by_hand(sides[1], bf16=True)]
    fit = Fit(sides[2], others, options.rounds)
    fit.run()
    figures = measured(fit.times[1:], options.steps)
    print(f"{processor()}, {options.threads} threads, torch {torch.__version__}")
    print("\n".join(f"{name}: {value:.3f}" for name, value in figures.items()))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))


def measured(times: list[list[float]], steps: int) -> dict[str, float]:
    """Milliseconds a step of each side, and the ratios, as medians over the rounds."""
    plain, hand, fit = zip(*times, strict=True)
    return {
        "plain fp32 loop, ms": statistics.median(plain) / steps * 1e3,
        "by hand, bf16 and channels last, ms": statistics.median(hand) / steps * 1e3,
        "fit, bf16 and channels last, ms": statistics.median(fit) / steps * 1e3,
        "fit / plain fp32 loop": statistics.median(f / p for p, _, f in times),
        "fit / by hand in bf16 and channels last": statistics.median(f / h for _, h, f in times),
    }


if __name__ == "__main__":
    main()
