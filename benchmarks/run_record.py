"""What telling of a run costs in its steps: `fit()` with record and event files, and without either.

A small MLP under a small teacher, so that a step is short and the share large; no evaluation, no comparison. Both sides
take turns, a run of one epoch each; the recorded one also writes a checkpoint, curves and the record's file, once. What
a step bears is apart from that: `share_of_readings`, the time of taking one reading, of every 50 steps, over theirs.

Run: python -m benchmarks.run_record [--rounds 10] [--steps 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.alternate import Aim, alternate, figures
from kdhooks import Distillation
from kdhooks.runs import Recorder


def epoch_of(folder: Path, batches: Any, *, records: bool) -> Any:
    """A side: one run of `fit()` of an epoch; `records` says whether it leaves its files, a checkpoint among them."""

    def run(_: int) -> None:
        torch.manual_seed(0)
        student = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
        teacher = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
        tuning = {"workspace": {"path": str(folder)}, "tensorboard": records and "auto", "report": False}
        conf = {"distillation": {"train": {"end_epoch": 1}}, "tuning": tuning}
        distiller = Distillation(conf, student_model=student, teacher_model=teacher)
        distiller.train_dataloader, distiller.writes_files = batches, records
        distiller.fit()

    return run


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    logging.getLogger("kdhooks").setLevel(logging.ERROR)
    generator = torch.Generator().manual_seed(1)
    one = torch.randn(64, 64, generator=generator), torch.randint(10, (64,), generator=generator)
    batches, readings = [one] * arguments.steps, list[float]()
    original = Recorder.reading

    def reading(self: Any, *args: Any) -> None:
        began = time.perf_counter()
        original(self, *args)
        if self.record is not None:
            readings.append(time.perf_counter() - began)

    Recorder.reading = reading  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        sides = {
            "recorded": epoch_of(Path(folder), batches, records=True),
            "silent": epoch_of(Path(folder), batches, records=False),
        }
        times = alternate(sides, arguments.rounds)
    found = figures(times, [Aim("recorded", "silent")])
    step = statistics.median(times["silent"]) / arguments.steps
    found["share_of_readings"] = statistics.median(readings) / 50 / step  # a reading every 50 steps
    print(json.dumps(found, indent=2))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
