"""What a profile costs: the same step with and without one, and with the ledger's calls that stand in every step.

Both sides run in one process on the same models, in turn, and swap the order from round to round; figures are medians
over the rounds, and ratios are medians of the rounds' own ratios. The first case is a step that costs something, the
second one that costs nothing, where the microseconds are what counts. What the calls cost where nobody profiles is
timed alone: a step makes that many of them, and they do nothing.

What is aimed for: at most 1.01 of the ResNet's step, and a few microseconds of the MLP's.

Run: python -m benchmarks.ledger [--rounds 60] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.goals import Goal
from benchmarks.step_cases import step_cases, step_options
from benchmarks.step_cost import CONF
from kdhooks import Distillation
from kdhooks.ledger import OFF

Step = Callable[[], None]


def made(distiller: Distillation, x: Tensor, y: Tensor) -> Step:
    """A step of a loop that tells all it can, so that the ledger has most to do."""
    student = distiller.student_model
    distiller.on_train_begin()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        distiller.on_step_begin(0)
        output = student(x)
        loss = F.cross_entropy(output, y)
        loss = distiller.on_after_compute_loss(x, output, loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        distiller.on_step_end()

    return step


def seconds(distiller: Distillation, step: Step, inner: int, *, profiled: bool) -> float:
    """Seconds of one step, as the mean over `inner` steps; opening and closing the profile is not among them."""
    profile: AbstractContextManager[Any] = distiller.profile() if profiled else nullcontext()
    with profile:
        step()
        began = time.perf_counter()
        for _ in range(inner):
            step()
        return (time.perf_counter() - began) / inner


def compare(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, *, rounds: int, inner: int) -> dict[str, Any]:
    """Time both sides in turn and return medians in seconds, their ratio and their difference."""
    distiller = Distillation(CONF, student_model=student, teacher_model=teacher)
    step = made(distiller, x, y)
    seconds(distiller, step, max(2, inner // 4), profiled=True)
    pairs = []
    for index in range(rounds):
        times = {}
        for profiled in (True, False) if index % 2 else (False, True):
            times[profiled] = seconds(distiller, step, inner, profiled=profiled)
        pairs.append((times[False], times[True]))
    distiller.on_train_end()
    ratios = sorted(one / other for other, one in pairs)
    return {
        "plain_s": statistics.median(other for other, _ in pairs),
        "profiled_s": statistics.median(one for _, one in pairs),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "extra_us": statistics.median(one - other for other, one in pairs) * 1e6,
        "rounds": rounds,
    }


def calls_of_a_step(ledger: Any, *, repeats: int = 3000, inner: int = 20) -> float:
    """Microseconds of the ledger's own calls of one step, and nothing between them; the best of many short repeats."""
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(inner):
            with ledger.border("begin"):
                pass
            with ledger.border("loss"):
                ledger.step_of(None)
                with ledger.part("losses"), ledger.part("teacher"):
                    pass
            with ledger.border("end"):
                pass
        best = min(best, (time.perf_counter() - began) / inner)
    return best * 1e6


def main() -> None:
    """Measure both cases and the calls alone, and print them."""
    options = step_options(__doc__)
    cases = step_cases(compare, options.rounds)
    with Distillation(CONF, student_model=nn.Linear(1, 1)).profile() as ledger:
        profiled = calls_of_a_step(ledger)
    results = {"cases": cases, "calls_us": profiled, "calls_off_us": calls_of_a_step(OFF)}
    print(markdown(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


def markdown(results: dict[str, Any]) -> str:
    """The figures as a table."""
    lines = ["| case | plain, ms | profiled, ms | ratio | quartiles | extra µs a step | rounds |", "| --- " * 7 + "|"]
    for name, case in results["cases"].items():
        low, high = case["ratio_quartiles"]
        lines.append(
            f"| {name} | {case['plain_s'] * 1e3:.3f} | {case['profiled_s'] * 1e3:.3f} | {case['ratio']:.4f} "
            f"| {low:.4f} to {high:.4f} | {case['extra_us']:.1f} | {case['rounds']} |"
        )
    calls, off = results["calls_us"], results["calls_off_us"]
    alone = f"The ledger's calls of a step alone: {calls:.1f} µs, and {off:.2f} µs where nobody profiles."
    return "\n".join([*lines, "", alone])


def goals(results: dict[str, Any]) -> list[Goal]:
    """What is aimed for."""
    name, case = next(iter(results["cases"].items()))
    return [Goal(f"a profile, {name}", case["ratio"], 1.01)]


def section(results: dict[str, Any]) -> str:
    """The page's section."""
    return f"""## The ledger

A step inside of `distiller.profile()` against the same step without; the aim is 1.01 where the models cost something.

{markdown(results)}"""


if __name__ == "__main__":
    main()
