"""Every candidate of a space of small convolutional networks, really trained on scikit-learn's digits: a table.

    python -m benchmarks.search_digits               # goes on where it stopped; 2 minutes of one core
    python -m benchmarks.search_digits --quick       # two candidates, one seed, into .kdhooks

A candidate's score is its accuracy in percent on a quarter of the images, the mean over `SEEDS` seeds; a seed decides
the split, the initial weights and the order of batches, alike for every candidate. Training is short on purpose: a
search needs a landscape with a peak, and after a long training most of these networks are equally good. Candidates are
trained in an order drawn at random, so that an unfinished table is a fair sample; a finished one is in the order of the
grid. `benchmarks.search_bo` searches in the table, and trains nothing.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks.datasets import build_dataset

SPACE: dict[str, tuple[float, ...]] = {
    "layers": (1, 2, 3, 4),
    "width": (4, 8, 16, 32),
    "kernel": (1, 3, 5),
    "rate": (0.001, 0.002, 0.004, 0.008, 0.016, 0.032),
}
"""Convolutions, their channels and their kernel, and the learning rate of Adam."""

SEEDS, STEPS, BATCH, HIDDEN, NEAR = 20, 16, 32, 32, 0.5
_PARTS = ("weight", "bias")
TABLE = Path(__file__).with_name("search_digits.csv")
Arch = Mapping[str, float]


def candidates() -> list[dict[str, float]]:
    """All points of the space, in the order of the grid."""
    return [dict(zip(SPACE, point, strict=True)) for point in itertools.product(*SPACE.values())]


class Network(nn.Module):
    """Convolutions, the first of stride 2, and two linear layers; [N, 1, 8, 8] to logits [N, 10]."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        width, kernel = int(arch["width"]), int(arch["kernel"])
        channels = [1, *[width] * int(arch["layers"])]
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, kernel, stride=1 if index else 2, padding=kernel // 2)
            for index, (before, after) in enumerate(itertools.pairwise(channels))
        )
        self.hidden, self.head = nn.Linear(16 * width, HIDDEN), nn.Linear(HIDDEN, 10)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.kaiming_normal_(parameter, nonlinearity="relu")
            else:
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = F.relu(convolution(x))
        logits: Tensor = self.head(F.relu(self.hidden(x.flatten(1))))
        return logits


class Networks(nn.Module):
    """Several networks of one shape as one, each with its own images: [S, N, 1, 8, 8] to logits [S, N, 10].

    Convolutions are grouped and linear layers are batched, so that S trainings cost little more than one; no network
    knows of another.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        super().__init__()
        self.count = len(networks)
        kernels = zip(*(network.convolutions for network in networks), strict=True)
        self.convolutions = nn.ParameterList(
            nn.Parameter(torch.cat([getattr(one, part).detach() for one in layer]))
            for layer in kernels
            for part in _PARTS
        )
        layers = [[network.hidden for network in networks], [network.head for network in networks]]
        self.linear = nn.ParameterList(
            nn.Parameter(torch.stack([getattr(one, part).detach() for one in layer]))
            for layer in layers
            for part in _PARTS
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x.transpose(0, 1).flatten(1, 2)  # [N, S, 8, 8]
        for index in range(0, len(self.convolutions), 2):
            weight, bias = self.convolutions[index], self.convolutions[index + 1]
            stride, padding = 1 if index else 2, weight.shape[-1] // 2
            x = F.relu(F.conv2d(x, weight, bias, stride, padding, groups=self.count))
        x = x.unflatten(1, (self.count, -1)).transpose(0, 1).flatten(2)  # [S, N, 16 * width]
        weight, bias, head, head_bias = self.linear
        x = F.relu(torch.baddbmm(bias[:, None], x, weight.mT))
        return torch.baddbmm(head_bias[:, None], x, head.mT)


@cache
def split(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [N, 1, 8, 8] and labels [N] to train with, and the same to test with; another split for each seed."""
    parts = [build_dataset("digits", {"train": train, "split_seed": seed}) for train in (True, False)]
    x, y, test_x, test_y = (torch.from_numpy(array) for part in parts for array in (part.inputs, part.targets))
    return x, y, test_x, test_y


@cache
def batches(seed: int, steps: int) -> tuple[Tensor, Tensor]:
    """Images [steps, B, 1, 8, 8] and labels [steps, B]; a new order each epoch, without its short last batch."""
    x, y, _, _ = split(seed)
    generator, rows = torch.Generator().manual_seed(seed), torch.empty(0, dtype=torch.int64)
    while len(rows) < steps * BATCH:
        order = torch.randperm(len(x), generator=generator)
        rows = torch.cat([rows, order[: len(x) // BATCH * BATCH]])
    chosen = rows[: steps * BATCH].view(steps, BATCH)
    return x[chosen], y[chosen]


def train(arch: Arch, seeds: Sequence[int], steps: int = STEPS) -> list[float]:
    """Accuracies in percent of one candidate after a training with each of the seeds."""
    networks = []
    for seed in seeds:
        torch.manual_seed(seed)
        networks.append(Network(arch))
    model = Networks(networks)
    optimizer = torch.optim.Adam(model.parameters(), lr=float(arch["rate"]), fused=True)
    taken = [batches(seed, steps) for seed in seeds]
    for step in range(steps):
        logits = model(torch.stack([x[step] for x, _ in taken]))
        labels = torch.stack([y[step] for _, y in taken])
        loss = len(seeds) * F.cross_entropy(logits.flatten(0, 1), labels.flatten())  # the sum of each network's mean
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        found = model(torch.stack([split(seed)[2] for seed in seeds])).argmax(2)
    right = found == torch.stack([split(seed)[3] for seed in seeds])
    return [100 * float(one) for one in right.float().mean(1)]


def score(arch: Arch, seeds: int = SEEDS, steps: int = STEPS) -> dict[str, float]:
    """One row of the table: the mean over the seeds, its standard error, and what it took."""
    began = time.process_time()
    scores = train(arch, range(seeds), steps)
    error = statistics.stdev(scores) / seeds**0.5 if seeds > 1 else 0.0
    seconds = time.process_time() - began
    return {**arch, "score": round(statistics.fmean(scores), 4), "error": round(error, 4), "seconds": round(seconds, 2)}


def key(row: Mapping[str, Any]) -> tuple[float, ...]:
    """A candidate as its place in the space."""
    return tuple(float(row[name]) for name in SPACE)


def read(path: Path = TABLE) -> list[dict[str, float]]:
    """The rows that are there; numbers of the architecture are whole but the learning rate."""
    if not path.exists():
        return []
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(lines)]
    whole = [name for name in SPACE if name != "rate"]
    return [{**row, **{name: int(row[name]) for name in whole}} for row in rows]


def head(seeds: int, steps: int) -> str:
    """What a table begins with: how it was made."""
    return f"# python -m benchmarks.search_digits: mean accuracy over {seeds} seeds after {steps} steps of {BATCH}\n"


def write(path: Path, rows: Sequence[Mapping[str, Any]], top: str) -> None:
    """The whole table anew."""
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(top)
        table = csv.DictWriter(file, [*SPACE, "score", "error", "seconds"], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)


def near_best(rows: Sequence[Mapping[str, float]], near: float = NEAR) -> list[Mapping[str, float]]:
    """The candidates whose score is at most `near` points under the best one, best first."""
    best = max(row["score"] for row in rows)
    return sorted((row for row in rows if row["score"] >= best - near), key=lambda row: -row["score"])


def scored(missing: Sequence[Arch], judge: Callable[[Arch], dict[str, float]], jobs: int) -> Iterator[dict[str, float]]:
    """Rows of candidates in their order, made here or in so many processes of one thread each."""
    if jobs == 1:
        torch.set_num_threads(1)
        yield from map(judge, missing)
        return
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield from pool.map(judge, missing)


def exhaust(path: Path, wanted: Sequence[Arch], seeds: int, steps: int, jobs: int = 1) -> None:
    """Train all candidates that are not in the table yet, a line each; the order of the grid when all are there.

    A table that was made with other seeds or steps is neither gone on with nor replaced.
    """
    top = head(seeds, steps)
    if not path.exists():
        write(path, [], top)
    if not path.read_text(encoding="utf-8").startswith(top):
        raise SystemExit(f"{path} was made with other settings; name another file with --out, or remove it")
    done = {key(row) for row in read(path)}
    missing = [arch for arch in wanted if key(arch) not in done]
    random.Random(0).shuffle(missing)
    for number, row in enumerate(scored(missing, partial(score, seeds=seeds, steps=steps), jobs)):
        with path.open("a", encoding="utf-8") as file:
            file.write(",".join(f"{value:g}" for value in row.values()) + "\n")
        if number % 20 == 0:
            say(read(path), len(wanted))
    write(path, sorted(read(path), key=key), top)


def say(rows: Sequence[Mapping[str, float]], wanted: int) -> None:
    """How far it is, and how peaked the landscape is."""
    near, seconds = near_best(rows), sum(row["seconds"] for row in rows)
    scores = sorted(row["score"] for row in rows)
    print(
        f"{time.strftime('%H:%M:%S')} {len(rows)} of {wanted}, {seconds:.0f} s: best {scores[-1]:.2f}, "
        f"median {statistics.median(scores):.2f}, within {NEAR} points of the best: {len(near)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--some", type=int, help="so many candidates, drawn at random, and not all")
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time, of one thread each")
    parser.add_argument("--out", type=Path, help=f"benchmarks/{TABLE.name} unless --quick")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    wanted: list[dict[str, float]] = candidates()
    if options.quick:
        options.seeds, options.steps, options.some = 1, 2, 2
    if options.some:
        wanted = random.Random(1).sample(wanted, options.some)
    path = options.out or (Path(".kdhooks") / TABLE.name if options.quick else TABLE)
    path.parent.mkdir(parents=True, exist_ok=True)
    exhaust(path, wanted, options.seeds, options.steps, options.jobs)
    rows = read(path)
    say(rows, len(wanted))
    for row in near_best(rows):
        print({name: round(value, 4) for name, value in row.items()})


if __name__ == "__main__":
    main()
