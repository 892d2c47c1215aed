"""What a step with DANN costs with kdhooks, against a loop written by hand that computes the same.

Both loops run the source and the target through the student, a discriminator of the same build on the pooled features
behind a reversed gradient, and one optimizer over all; in turn, in one process.

Run: make bench (all parts), or python -m benchmarks.adaptation_step [--rounds 60] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.alternate import Aim, alternate, figures, ratios_table, times_table
from benchmarks.goals import Goal, of_ratios
from benchmarks.resnet import ResNet
from kdhooks import Distillation
from kdhooks.adaptation import WarmStart

HIDDEN = 256
HAND, HOOKS = "by hand", "kdhooks"
AIMS = [Aim(HOOKS, HAND, 1.03)]
Step = Callable[[int], Tensor]


class Student(nn.Module):
    """A ResNet whose pooled features are a layer."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.body = ResNet(depth)
        self.fc, self.body.fc = self.body.fc, nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.fc(self.body(x))
        return logits


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, features: Tensor, coefficient: float) -> Tensor:
        ctx.coefficient = coefficient
        return features.view_as(features)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return -ctx.coefficient * gradient, None


def by_hand(student: Student, x: Tensor, y: Tensor, target: Tensor) -> Step:
    """A step as people write it (Ganin & Lempitsky 2015), with the accuracy that they log."""
    layers = [nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)]
    discriminator, warm = nn.Sequential(*layers), WarmStart()
    optimizer = torch.optim.SGD([*student.parameters(), *discriminator.parameters()], lr=0.01, momentum=0.9)
    count = 0
    log = []

    def step(_: int) -> Tensor:
        nonlocal count
        mine = student.body(x)
        output = student.fc(mine)
        theirs = student.body(target)
        student.fc(theirs)  # the whole model, whose target predictions the loop keeps
        both = discriminator(_Reversed.apply(torch.cat([mine, theirs]), warm(count)))
        domain = torch.cat([torch.ones(len(x), 1), torch.zeros(len(target), 1)])
        losses = F.binary_cross_entropy_with_logits(both, domain, reduction="none")
        loss = F.cross_entropy(output, y) + losses[: len(x)].mean() + losses[len(x) :].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        count += 1
        log[:] = [((both.detach() > 0) == (domain > 0)).float().mean(), loss.detach()]
        return log[1]

    return step


def with_hooks(student: Student, x: Tensor, y: Tensor, target: Tensor) -> Step:
    """The same step with the hooks."""
    conf = {"domain_adaptation": {"criterion": {"DANN": {"layer": "body", "hidden_size": HIDDEN}}}}
    distiller = Distillation(conf, student_model=student)
    distiller.on_train_begin()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)

    def step(_: int) -> Tensor:
        output = student(x)
        loss = F.cross_entropy(output, y)
        loss = distiller.on_after_compute_loss(x, output, loss, target_input=target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def measure(rounds: int, *, depth: int = 20, batch: int = 64) -> dict[str, Any]:
    """Both sides' times."""
    torch.manual_seed(0)
    student = Student(depth)
    x, target = torch.randn(batch, 3, 32, 32), torch.randn(batch, 3, 32, 32) + 0.5
    y = torch.randint(100, (batch,))
    makers: Mapping[str, Any] = {HAND: by_hand, HOOKS: with_hooks}
    sides = {name: make(copy.deepcopy(student), x, y, target) for name, make in makers.items()}
    return {"depth": depth, "batch": batch, **figures(alternate(sides, rounds, warm_up=3), AIMS)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--depth", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(options.rounds, depth=options.depth, batch=options.batch)
    print(section(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


def section(found: dict[str, Any]) -> str:
    """The page's section."""
    return f"""## Domain adaptation

A step with DANN: a ResNet-{found["depth"]}, 32 × 32, {found["batch"]} rows of each domain, a discriminator of two
hidden layers of {HIDDEN} on the pooled features, SGD with momentum, fp32, against a loop written by hand that computes
the same and logs the discriminator's accuracy. {found["rounds"]} rounds.

{times_table(found, HAND)}

{ratios_table(found["ratios"])}"""


def goals(found: dict[str, Any]) -> list[Goal]:
    """What is aimed for."""
    return of_ratios(found, "a step with DANN")


if __name__ == "__main__":
    main()
