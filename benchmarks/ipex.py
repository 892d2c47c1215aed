"""What Intel Extension for PyTorch brings, beside torch's own bf16 and channels last, in the environment that has it.

Teachers' forwards (ResNet-56 on 128 images of 32 x 32; an encoder of BERT-base's size on 16 rows of 64 tokens) as
`kdhooks.torch.teacher.Teacher` runs them, and a training step of ResNet-20. All ways of a case run in turn in one
process; a share is the median over the rounds of a way's time by fp32's in the same round.

Run: make .venv-ipex/.ready && .venv-ipex/bin/python -m benchmarks.ipex [--rounds 30] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.machine import processor
from benchmarks.resnet import resnet20, resnet56
from kdhooks.speed import Choice
from kdhooks.torch.ipex_student import IpexTraining
from kdhooks.torch.memory_format import input_layout, to_channels_last
from kdhooks.torch.placement import autocast
from kdhooks.torch.teacher import Teacher

CPU = torch.device("cpu")
WAYS = {
    "fp32": Choice("fp32"),
    "fp32, ipex": Choice("fp32", ipex=True),
    "bf16": Choice("bf16"),
    "bf16, channels last": Choice("bf16", channels_last=True),
    "bf16, ipex": Choice("bf16", ipex=True),
}

Run = Callable[[], Any]


class Layer(nn.Module):
    """A layer of BERT (Devlin et al. 2019); [N, T, width] to the same."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.output = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        parts = (one(x).unflatten(2, (self.heads, -1)).transpose(1, 2) for one in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        x = self.norm1(x + self.output(mixed))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Encoder(nn.Module):
    """An encoder of tokens; [N, T] numbers to [N, 2]."""

    def __init__(self, layers: int = 12, width: int = 768, heads: int = 12, tokens: int = 30522) -> None:
        super().__init__()
        self.embedding, self.norm = nn.Embedding(tokens, width), nn.LayerNorm(width)
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(layers)))
        self.head = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.layers(self.norm(self.embedding(tokens)))[:, 0])


def teacher_runs(model: nn.Module, x: Tensor, ways: list[str]) -> dict[str, Run]:
    """The forward of a teacher in each way."""
    runs: dict[str, Run] = {}
    for name in ways:
        choice = WAYS[name]
        teacher = Teacher(
            copy.deepcopy(model),
            nn.Linear(1, 1),
            precision=choice.precision,
            channels_last=choice.channels_last,
            ipex=choice.ipex,
        )
        teacher.on_train_begin()
        teacher(x)
        if teacher.choice != choice:
            raise RuntimeError(f"the teacher runs in {teacher.choice}, not in {choice}")
        runs[name] = lambda teacher=teacher: teacher(x)  # type: ignore[misc]
    return runs


def training_runs(rows: int) -> dict[str, Run]:
    """A training step of ResNet-20 in each way."""
    x, y = torch.randn(rows, 3, 32, 32), torch.randint(100, (rows,))
    return {name: _step(choice, x, y) for name, choice in WAYS.items()}


def _step(choice: Choice, x: Tensor, y: Tensor) -> Run:
    model = resnet20().train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    if choice.channels_last:
        to_channels_last(model, optimizer)
    if choice.ipex:
        IpexTraining(model, optimizer, bf16=choice.precision == "bf16").enter()
    x = input_layout(choice.channels_last)(x)

    def step() -> None:
        with autocast(choice.precision, CPU):
            loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def measured(runs: dict[str, Run], rounds: int) -> dict[str, Any]:
    """Median seconds of each way, and its median share of the first, with the quartiles."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        run(), run()
    for number in range(rounds):
        order = list(runs) if number % 2 else list(runs)[::-1]
        for name in order:
            begin = time.perf_counter()
            runs[name]()
            times[name].append(time.perf_counter() - begin)
    first = times[next(iter(runs))]
    found = {}
    for name, own in times.items():
        shares = sorted(one / other for one, other in zip(own, first, strict=True))
        quartiles = [shares[len(shares) // 4], shares[-1 - len(shares) // 4]]
        found[name] = {"seconds": statistics.median(own), "share": statistics.median(shares), "quartiles": quartiles}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="tiny batches and a shallow encoder")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    torch.manual_seed(0)
    rows, texts, layers = (4, 2, 1) if asked.quick else (128, 16, 12)
    flat = [name for name, choice in WAYS.items() if not choice.channels_last]
    cases: dict[str, Callable[[], dict[str, Run]]] = {
        "ResNet-56, a teacher's forward": lambda: teacher_runs(resnet56(), torch.randn(rows, 3, 32, 32), list(WAYS)),
        "BERT-base, a teacher's forward": lambda: teacher_runs(
            Encoder(layers), torch.randint(30522, (texts, 64)), flat
        ),
        "ResNet-20, a training step": lambda: training_runs(rows),
    }
    results = {name: measured(case(), asked.rounds) for name, case in cases.items()}
    print(f"{processor()}, {asked.threads} threads, Python {platform.python_version()}, torch {torch.__version__}\n")
    print("| case | way | ms | share of fp32 | quartiles |\n| --- | --- | --- | --- | --- |")
    for case, ways in results.items():
        for way, found in ways.items():
            low, high = found["quartiles"]
            spent, share = 1000 * found["seconds"], found["share"]
            print(f"| {case} | {way} | {spent:.1f} | {share:.2f} | {low:.2f}–{high:.2f} |")
    if asked.json is not None:
        asked.json.write_text(json.dumps(results, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
