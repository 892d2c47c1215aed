"""Five epochs with a store that is empty at the beginning, against the same run without one.

ResNet-56 → ResNet-20 in a user's own loop, the teacher in fp32. The first epoch computes and stores, the others
read. Whole runs in turn in one process, each with a store of its own, the order swapped from round to round.

Run: python -m benchmarks.cached_run [--rows 2560] [--rounds 3] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.alternate import Aim, alternate, figures, ratios_table, times_table
from benchmarks.goals import Goal, of_ratios
from benchmarks.peers import sgd
from benchmarks.resnet import ResNet
from benchmarks.teacher_cost import conf
from kdhooks import Distillation

STORE, LIVE = "from an empty store", "without a store"
AIMS = (Aim(STORE, LIVE, 0.70),)
EPOCHS, BATCH = 5, 128


def run(student: nn.Module, teacher: nn.Module, data: tuple[Tensor, Tensor], cache: Mapping[str, Any] | None) -> None:
    """All epochs, in another order each."""
    settings = {} if cache is None else {"cache": cache}
    distiller = Distillation(conf(**settings), student_model=student, teacher_model=teacher)
    optimizer = sgd(student.parameters())
    student.train()
    with distiller:
        distiller.on_train_begin(optimizer=optimizer)
        for _ in range(EPOCHS):
            for rows in torch.randperm(len(data[1])).split(BATCH):
                x, y = data[0][rows], data[1][rows]
                output = student(x)
                loss = distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y))
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            distiller.on_epoch_end()


def measure(*, rows: int, rounds: int, depths: tuple[int, int] = (20, 56)) -> dict[str, Any]:
    """Time both sides in turn."""
    torch.manual_seed(0)
    data = torch.randn(rows, 3, 32, 32), torch.randint(100, (rows,))
    student, teacher = (ResNet(depth) for depth in depths)

    def stored(number: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            run(copy.deepcopy(student), teacher, data, {"path": folder})

    def live(number: int) -> None:
        run(copy.deepcopy(student), teacher, data, None)

    times = alternate({STORE: stored, LIVE: live}, rounds, warm_up=0)
    return {**figures(times, AIMS), "rows": rows, "missing": []}


def goals(found: Mapping[str, Any]) -> list[Goal]:
    """What is aimed for."""
    return of_ratios(found, "five epochs")


def section(found: Mapping[str, Any]) -> str:
    """The page's section."""
    return f"""## A store that begins empty

{EPOCHS} epochs over {found["rows"]:,} images of 3 × 32 × 32 with `cache: {{path: ...}}` and nothing in it, against
the same run without, ResNet-56 → ResNet-20, fp32 on both sides, whole runs in turn, {found["rounds"]} rounds.

{times_table(found, LIVE)}

{ratios_table(found["ratios"])}"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2560)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--depths", type=int, nargs=2, default=(20, 56), help="of student and teacher")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(rows=options.rows, rounds=options.rounds, depths=tuple(options.depths))
    print(section(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
