"""What stored teacher outputs cost a training step: hashing 128 CIFAR rows and reading 100 logits each, by the hooks.

The call that returns the loss is timed twice in turn: with a store that has all rows, and with `teacher_output=`
handed in, so that nothing is hashed or read. The difference is the store's. Models are not run: the student's
logits are there, and a row that is not found would run a teacher that refuses.

Run: python -m benchmarks.cache_hook [--rounds 400] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.alternate import alternate, spread, verdict
from benchmarks.goals import Goal
from benchmarks.teacher_cost import conf
from kdhooks import Distillation

BATCH, CLASSES, BATCHES = 128, 100, 40  # batches in turn, so that the processor's cache does not hold the images
STORE, GIVEN = "with a warm store", "with teacher_output="
AT_MOST_MS = 1.0


class Once(nn.Module):
    """A teacher that answers until it is told that all rows are stored."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.refuses = nn.Linear(3, CLASSES), False

    def forward(self, x: Tensor) -> Tensor:
        if self.refuses:
            raise RuntimeError("a row that is in the store was not found in it")
        found: Tensor = self.head(x.mean((2, 3)))
        return found


def measure(*, rounds: int) -> dict[str, Any]:
    """Milliseconds of both calls and of their difference."""
    torch.manual_seed(0)
    teacher, student = Once(), nn.Linear(1, 1)
    batches = [torch.randn(BATCH, 3, 32, 32) for _ in range(BATCHES)]
    answers = [teacher(x).detach() for x in batches]
    output = torch.randn(BATCH, CLASSES, requires_grad=True)
    loss = F.cross_entropy(output, torch.randint(CLASSES, (BATCH,)))
    with tempfile.TemporaryDirectory() as folder:
        distiller = Distillation(conf(cache={"path": folder}), student_model=student, teacher_model=teacher)
        with distiller:
            distiller.on_train_begin()
            for x in batches:
                distiller.on_after_compute_loss(x, output, loss)
            teacher.refuses = True

            def stored(number: int) -> object:
                return distiller.on_after_compute_loss(batches[number % BATCHES], output, loss)

            def given(number: int) -> object:
                at = number % BATCHES
                return distiller.on_after_compute_loss(batches[at], output, loss, answers[at])

            times = alternate({STORE: stored, GIVEN: given}, rounds, warm_up=BATCHES)
    differences = [one - other for one, other in zip(times[STORE], times[GIVEN], strict=True)]
    told = {name: spread(value * 1e3 for value in values) for name, values in times.items()}
    return {
        "ms": told,
        "difference_ms": spread(value * 1e3 for value in differences),
        "least_ms": min(differences) * 1e3,
        "mean_ms": statistics.fmean(differences) * 1e3,
        "rounds": rounds,
        "missing": [],
    }


def goals(found: Mapping[str, Any]) -> list[Goal]:
    """What is aimed for."""
    what = f"hashing and reading {BATCH} CIFAR rows with {CLASSES} logits, through the hooks"
    return [Goal(what, found["difference_ms"]["median"], AT_MOST_MS, " ms")]


def section(found: Mapping[str, Any]) -> str:
    """The page's section."""
    lines = ["| call | ms | quartiles | at most | reached |", "| --- " * 5 + "|"]
    for name, one in found["ms"].items():
        low, high = one["quartiles"]
        lines.append(f"| {name} | {one['median']:.3f} | {low:.3f} to {high:.3f} | – | – |")
    low, high = found["difference_ms"]["quartiles"]
    middle = found["difference_ms"]["median"]
    told = f"{middle:.3f} | {low:.3f} to {high:.3f} | {verdict(middle, AT_MOST_MS)}"
    lines.append(f"| the difference: hashing and reading | {told} |")
    table = "\n".join(lines)
    return f"""## A warm batch

`on_after_compute_loss` for {BATCH} rows of 3 × 32 × 32 in fp32 and {CLASSES} fp32 logits, with a store that has every
row, and with `teacher_output=` handed in, in turn, {found["rounds"]} rounds over {BATCHES} batches.

{table}"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=400)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(rounds=options.rounds)
    print(section(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
