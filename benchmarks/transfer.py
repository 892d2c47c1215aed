"""Weight transfer against torch's own ``load_state_dict``: time, and memory beside both states.

A student and a state of 100 million numbers in 200 tensors, in alternation in one process for the time, and in a
process of its own each for the memory: the peak of the resident set during the transfer less what was resident before
it. The state lies in memory, as that of a pretrained model does.

Run: python -m benchmarks.transfer [--millions 100] [--rounds 15] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.chunked_loss import peak, resident
from benchmarks.goals import Goal
from kdhooks.torch.transfer import transfer_weights

LAYERS = 100
AIM = 1.2
SIDES = ("load_state_dict", "transfer")
CASES = {"the same names": "", "below module.": "module."}
"""What stands before the source's names."""


class Student(nn.Module):
    """Linear layers, of so many million numbers in all."""

    def __init__(self, millions: float) -> None:
        super().__init__()
        width = max(int((millions * 1e6 / LAYERS) ** 0.5), 8)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(LAYERS))


def state_of(model: nn.Module, prefix: str) -> dict[str, Tensor]:
    """Other values of the same shapes."""
    return {prefix + name: torch.full_like(value, 0.5) for name, value in model.state_dict().items()}


def loaded(student: nn.Module, state: dict[str, Tensor], prefix: str) -> None:
    """As people write it."""
    student.load_state_dict({name.removeprefix(prefix): value for name, value in state.items()} if prefix else state)


def transferred(student: nn.Module, state: dict[str, Tensor], prefix: str) -> None:
    """Ours, which finds the prefix by itself."""
    transfer_weights(student, state)


RUNS: dict[str, Callable[[nn.Module, dict[str, Tensor], str], None]] = dict(
    zip(SIDES, (loaded, transferred), strict=True)
)


def times(millions: float, rounds: int, prefix: str) -> dict[str, list[float]]:
    """Seconds of each round, in turn."""
    student = Student(millions)
    state = state_of(student, prefix)
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    for round_ in range(rounds + 1):
        for side in SIDES if round_ % 2 else reversed(SIDES):
            began = time.perf_counter()
            RUNS[side](student, state, prefix)
            if round_:  # the first one touches the memory
                seconds[side].append(time.perf_counter() - began)
    return seconds


def memory(side: str, millions: float, prefix: str) -> float:
    """MB at the peak of a transfer beside the student and the state."""
    student = Student(millions)
    state = state_of(student, prefix)
    RUNS[side](Student(0.1), state_of(Student(0.1), prefix), prefix)  # what is loaded on first use
    before = resident()
    RUNS[side](student, state, prefix)
    return 1000 * (peak() - before)


def in_a_process(side: str, options: argparse.Namespace, prefix: str) -> float:
    """`memory` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.transfer", "--side", side, "--prefix", prefix]
    command += ["--millions", str(options.millions), "--threads", str(options.threads)]
    ran = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(ran.stdout.splitlines()[-1])


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Both sides for each case: medians, the median of the rounds' own ratios, and memory."""
    found: dict[str, Any] = {}
    for case, prefix in CASES.items():
        seconds = times(options.millions, options.rounds, prefix)
        ratios = [ours / theirs for theirs, ours in zip(*(seconds[side] for side in SIDES), strict=True)]
        found[case] = {
            "seconds": {side: statistics.median(several) for side, several in seconds.items()},
            "ratio": statistics.median(ratios),
            "extra_mb": {side: in_a_process(side, options, prefix) for side in SIDES},
        }
    return {"cases": found, "millions": options.millions, "rounds": options.rounds}


def goals(result: dict[str, Any]) -> list[Goal]:
    """What is aimed for."""
    made = []
    for case, one in result["cases"].items():
        made.append(Goal(f"weight transfer, {case}: time over load_state_dict", one["ratio"], AIM))
        extra = one["extra_mb"]["transfer"] - one["extra_mb"]["load_state_dict"]
        states = extra / (4 * result["millions"])
        made.append(Goal(f"weight transfer, {case}: memory over load_state_dict, in states", states, 0.05))
    return made


def section(result: dict[str, Any]) -> str:
    """The page's section."""
    lines = ["| case | `load_state_dict`, ms | transfer, ms | ratio | at most | extra MB, each |", "| --- " * 6 + "|"]
    for case, one in result["cases"].items():
        plain, ours = (1000 * one["seconds"][side] for side in SIDES)
        extra = " / ".join(f"{one['extra_mb'][side]:.1f}" for side in SIDES)
        lines.append(f"| {case} | {plain:.1f} | {ours:.1f} | {one['ratio']:.3f} | {AIM} | {extra} |")
    table = "\n".join(lines)
    return f"""## Weight transfer

A state of {result["millions"]:g} million numbers in {2 * LAYERS} tensors into a student, beside `load_state_dict`, in
turn in one process, medians of {result["rounds"]} rounds; memory is the peak beside student and state, in a process of
its own. Ours finds the prefix by itself and makes a report.

{table}"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=float, default=100)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--prefix", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.side:
        print(memory(options.side, options.millions, options.prefix))
        return
    result = compare(options)
    print(section(result))
    if options.json:
        options.json.write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
