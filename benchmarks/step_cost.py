"""What a step costs with kdhooks, against a hand-written loop that computes the same loss.

Both loops run in one process, in turn, and swap the order from round to round; figures are medians
over the rounds, and ratios are medians of the rounds' own ratios, since machines are noisy.

Run: make bench (all of them), or python -m benchmarks.step_cost [--rounds 60] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import copy
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.step_cases import step_cases, step_options
from kdhooks import Distillation

TEMPERATURE, WEIGHTS = 4.0, (0.1, 0.9)
CONF = {
    "distillation": {
        "train": {
            "criterion": {
                "KnowledgeDistillationLoss": {
                    "temperature": TEMPERATURE,
                    "loss_types": ["CE", "KL"],
                    "loss_weights": list(WEIGHTS),
                }
            }
        }
    }
}

Step = Callable[[], None]


def by_hand(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor) -> Step:
    """A step as people write it: the loss of Hinton et al. 2015 with a teacher under no_grad."""
    teacher.eval()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        output = student(x)
        loss = F.cross_entropy(output, y)
        with torch.no_grad():
            taught = teacher(x)
        soft = F.kl_div(
            F.log_softmax(output / TEMPERATURE, dim=1), F.softmax(taught / TEMPERATURE, dim=1), reduction="batchmean"
        )
        loss = WEIGHTS[0] * loss + WEIGHTS[1] * TEMPERATURE**2 * soft
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def with_hooks(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor) -> Step:
    """The same step with the hooks."""
    distiller = Distillation(CONF, student_model=student, teacher_model=teacher)
    distiller.on_train_begin()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        output = student(x)
        loss = F.cross_entropy(output, y)
        loss = distiller.on_after_compute_loss(x, output, loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def seconds(step: Step, inner: int) -> float:
    """Seconds of one step, as the mean over `inner` steps."""
    began = time.perf_counter()
    for _ in range(inner):
        step()
    return (time.perf_counter() - began) / inner


def compare(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor, *, rounds: int, inner: int) -> dict[str, Any]:
    """Time both loops in turn and return medians in seconds, their ratio and their difference."""
    hand, hooks = (make(copy.deepcopy(student), copy.deepcopy(teacher), x, y) for make in (by_hand, with_hooks))
    for step in (hand, hooks):
        seconds(step, max(2, inner // 10))
    pairs = []
    for index in range(rounds):
        order = (hand, hooks) if index % 2 else (hooks, hand)
        times = {id(step): seconds(step, inner) for step in order}
        pairs.append((times[id(hand)], times[id(hooks)]))
    ratios = sorted(ours / theirs for theirs, ours in pairs)
    return {
        "hand_written_s": statistics.median(theirs for theirs, _ in pairs),
        "hooks_s": statistics.median(ours for _, ours in pairs),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "extra_us": statistics.median(ours - theirs for theirs, ours in pairs) * 1e6,
        "rounds": rounds,
    }


def main() -> None:
    """Measure both cases and print them."""
    options = step_options(__doc__)
    results = step_cases(compare, options.rounds)
    print(markdown(results))
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """The figures as a table."""
    lines = ["| case | by hand, ms | kdhooks, ms | ratio | quartiles | extra µs a step | rounds |", "| --- " * 7 + "|"]
    for name, case in results.items():
        low, high = case["ratio_quartiles"]
        lines.append(
            f"| {name} | {case['hand_written_s'] * 1e3:.3f} | {case['hooks_s'] * 1e3:.3f} | {case['ratio']:.3f} "
            f"| {low:.3f} to {high:.3f} | {case['extra_us']:.0f} | {case['rounds']} |"
        )
    return "\n".join(lines)


def section(results: dict[str, dict[str, Any]]) -> str:
    """The page's section."""
    return f"""## What the hooks cost

A whole training step (student's forward, teacher's forward, loss, backward, SGD with momentum) with the hooks, against
a loop written by hand that computes the same loss: cross-entropy, and KL at T = 4 times T², fp32, the teacher under
no_grad.

{markdown(results)}

What is aimed for: a ratio of at most 1.02 where the models cost something, and at most 60 µs where they cost nothing.
The hooks' own work is constant a step: one call, one small `stack` that keeps the components for later, no wait for the
device."""


if __name__ == "__main__":
    main()
