"""Every candidate of a space of small convolutional networks, really trained on scikit-learn's digits: a table.

    python -m benchmarks.search_digits               # goes on where it stopped; about 15 minutes of one core
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
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
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
    "hidden": (16, 64),
    "rate": (0.001, 0.002, 0.004, 0.008, 0.016, 0.032),
}
"""Convolutions, their channels and their kernel, features before the last layer, learning rate of Adam."""

SEEDS, STEPS, BATCH, NEAR = 16, 30, 64, 0.5
TABLE = Path(__file__).with_name("search_digits.csv")
Arch = Mapping[str, float]


def candidates() -> list[dict[str, float]]:
    """All points of the space, in the order of the grid."""
    return [dict(zip(SPACE, point, strict=True)) for point in itertools.product(*SPACE.values())]


class Network(nn.Module):
    """Convolutions, a pooling after the first, and two linear layers; [N, 1, 8, 8] to logits [N, 10]."""

    def __init__(self, arch: Arch) -> None:
        super().__init__()
        width, kernel, hidden = (int(arch[name]) for name in ("width", "kernel", "hidden"))
        layers: list[nn.Module] = [nn.Conv2d(1, width, kernel, padding="same"), nn.ReLU(), nn.MaxPool2d(2)]
        for _ in range(int(arch["layers"]) - 1):
            layers += [nn.Conv2d(width, width, kernel, padding="same"), nn.ReLU()]
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(16 * width, hidden), nn.ReLU())
        self.head = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


@cache
def split(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images [N, 1, 8, 8] and labels [N] to train with, and the same to test with; another split for each seed."""
    parts = [build_dataset("digits", {"train": train, "split_seed": seed}) for train in (True, False)]
    x, y, test_x, test_y = (torch.from_numpy(array) for part in parts for array in (part.inputs, part.targets))
    return x, y, test_x, test_y


def batches(count: int, seed: int) -> Iterator[Tensor]:
    """Rows without end, in a new order each epoch; the short last batch is left out."""
    generator = torch.Generator().manual_seed(seed)
    while True:
        order = torch.randperm(count, generator=generator)
        yield from (order[at : at + BATCH] for at in range(0, count - BATCH + 1, BATCH))


def train(arch: Arch, seed: int, steps: int = STEPS) -> float:
    """Accuracy in percent of one candidate after a training with one seed."""
    x, y, test_x, test_y = split(seed)
    torch.manual_seed(seed)
    network = Network(arch)
    optimizer = torch.optim.Adam(network.parameters(), lr=float(arch["rate"]), fused=True)
    for rows in itertools.islice(batches(len(x), seed), steps):
        loss = F.cross_entropy(network(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return 100 * float((network.eval()(test_x).argmax(1) == test_y).float().mean())


def score(arch: Arch, seeds: int = SEEDS, steps: int = STEPS) -> dict[str, float]:
    """One row of the table: the mean over the seeds, its standard error, and what it took."""
    began = time.perf_counter()
    scores = [train(arch, seed, steps) for seed in range(seeds)]
    error = statistics.stdev(scores) / seeds**0.5 if seeds > 1 else 0.0
    seconds = time.perf_counter() - began
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


def exhaust(path: Path, wanted: Sequence[Arch], seeds: int, steps: int) -> None:
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
    for number, arch in enumerate(missing):
        row = score(arch, seeds, steps)
        with path.open("a", encoding="utf-8") as file:
            file.write(",".join(f"{value:g}" for value in row.values()) + "\n")
        if number % 20 == 0 or number == len(missing) - 1:
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
    parser.add_argument("--out", type=Path, help=f"benchmarks/{TABLE.name} unless --quick")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    wanted: list[dict[str, float]] = candidates()
    if options.quick:
        options.seeds, options.steps, options.some = 1, 2, 2
    if options.some:
        wanted = random.Random(1).sample(wanted, options.some)
    path = options.out or (Path(".kdhooks") / TABLE.name if options.quick else TABLE)
    path.parent.mkdir(parents=True, exist_ok=True)
    exhaust(path, wanted, options.seeds, options.steps)
    rows = read(path)
    say(rows, len(wanted))
    for row in near_best(rows):
        print({name: round(value, 4) for name, value in row.items()})


if __name__ == "__main__":
    main()
