"""What the teacher costs in a step: ResNet-56 → ResNet-20, batch 128, with kdhooks, by hand and with other libraries.

All sides run in turn in one process, on the same batches, each with its own copies of the same models. The floor
is the student alone; the teacher's forward alone is what can be won.

Run: python -m benchmarks.teacher_cost [--rounds 40] [--threads 2] [--sides NAME ...] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks import peers
from benchmarks.alternate import Aim, alternate, figures, ratios_table, times_table
from benchmarks.goals import Goal, of_ratios
from benchmarks.peers import Step, sgd
from benchmarks.resnet import ResNet
from kdhooks import Distillation

TEMPERATURE, WEIGHTS = 4.0, (0.1, 0.9)
BATCHES = 8
HAND, LIVE, FAST, WARM = "by hand, fp32", "kdhooks, fp32", "kdhooks, bf16 teacher", "kdhooks, warm cache"
NEURAL_COMPRESSOR, TORCHDISTILL = "Neural Compressor's criterion", "torchdistill's box"
STUDENT, TEACHER = "student alone", "teacher's forward alone, fp32"
AIMS = (
    Aim(FAST, HAND, 0.75),
    Aim(WARM, STUDENT, 1.03),
    Aim(LIVE, HAND),
    Aim(NEURAL_COMPRESSOR, HAND),
    Aim(TORCHDISTILL, HAND),
    Aim(FAST, NEURAL_COMPRESSOR),
    Aim(FAST, TORCHDISTILL),
)


def conf(**distillation: Any) -> dict[str, Any]:
    """A configuration with the criterion of all sides, and more settings below ``distillation``."""
    options = {"temperature": TEMPERATURE, "loss_types": ["CE", "KL"], "loss_weights": list(WEIGHTS)}
    return {"distillation": {"train": {"criterion": {"KnowledgeDistillationLoss": options}}, **distillation}}


def soft_loss(output: Tensor, taught: Tensor, loss: Tensor) -> Tensor:
    """The loss of Hinton et al. 2015, as people write it."""
    soft = F.kl_div(
        F.log_softmax(output / TEMPERATURE, dim=1), F.softmax(taught / TEMPERATURE, dim=1), reduction="batchmean"
    )
    return WEIGHTS[0] * loss + WEIGHTS[1] * TEMPERATURE**2 * soft


def by_hand(student: nn.Module, teacher: nn.Module | None) -> Step:
    """A loop's step with a teacher under no_grad, or without one."""
    optimizer = sgd(student.parameters())
    if teacher is not None:
        teacher.eval()

    def step(x: Tensor, y: Tensor) -> Tensor:
        output = student(x)
        loss = F.cross_entropy(output, y)
        if teacher is not None:
            with torch.no_grad():
                taught = teacher(x)
            loss = soft_loss(output, taught, loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def with_hooks(student: nn.Module, teacher: nn.Module, settings: Mapping[str, Any] | None = None) -> Step:
    """The same step with the hooks, and more settings below ``distillation``."""
    distiller = Distillation(conf(**(settings or {})), student_model=student, teacher_model=teacher)
    optimizer = sgd(student.parameters())
    distiller.on_train_begin(optimizer=optimizer)

    def step(x: Tensor, y: Tensor) -> Tensor:
        output = student(x)
        loss = distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return torch.as_tensor(loss.detach())

    return step


def warm(student: nn.Module, teacher: nn.Module, folder: str, batches: list[tuple[Tensor, Tensor]]) -> Step:
    """`with_hooks` and a store that has all batches.

    Raises:
        RuntimeError: the store did not keep them, so the figures would be of something else.
    """
    step = with_hooks(student, teacher, {"cache": {"path": folder}})
    for batch in batches:
        step(*batch)
    calls: list[int] = []
    handle = next(teacher.children()).register_forward_hook(lambda *_: calls.append(1))
    step(*batches[0])
    handle.remove()
    if calls:
        raise RuntimeError("the store has the batch, and the teacher ran all the same")
    return step


def forward_alone(teacher: nn.Module) -> Step:
    teacher.eval()

    def step(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.as_tensor(teacher(x))

    return step


def makers(folder: str, batches: list[tuple[Tensor, Tensor]]) -> dict[str, Callable[[nn.Module, nn.Module], Step]]:
    """How each side is made from its own student and teacher."""
    same: dict[str, Any] = {"temperature": TEMPERATURE, "weights": WEIGHTS}
    fast = {"precision": "bf16", "channels_last": True}
    return {
        HAND: by_hand,
        LIVE: with_hooks,
        FAST: lambda student, teacher: with_hooks(student, teacher, {"teacher": fast}),
        NEURAL_COMPRESSOR: lambda student, teacher: peers.neural_compressor_logits(student, teacher, **same),
        TORCHDISTILL: lambda student, teacher: peers.torchdistill_logits(student, teacher, **same),
        WARM: lambda student, teacher: warm(student, teacher, folder, batches),
        STUDENT: lambda student, teacher: by_hand(student, None),
        TEACHER: lambda student, teacher: forward_alone(teacher),
    }


NEEDS = {NEURAL_COMPRESSOR: "neural_compressor", TORCHDISTILL: "torchdistill"}
"""What must be installed for a side."""


def present(names: list[str], needs: Mapping[str, str] = NEEDS) -> list[str]:
    """The sides that this environment can run."""
    return [name for name in names if name not in needs or not peers.missing(needs[name])]


def measure(names: list[str], *, rounds: int, batch: int = 128, depths: tuple[int, int] = (20, 56)) -> dict[str, Any]:
    """Time the sides in turn.

    Args:
        names: of `makers`.
        rounds: that are counted.
        batch: images of a step.
        depths: of student and teacher.
    """
    torch.manual_seed(0)
    batches = [(torch.randn(batch, 3, 32, 32), torch.randint(100, (batch,))) for _ in range(BATCHES)]
    student, teacher = (ResNet(depth) for depth in depths)
    with tempfile.TemporaryDirectory() as folder:
        made = makers(folder, batches)
        steps = {name: made[name](copy.deepcopy(student), copy.deepcopy(teacher)) for name in present(names)}
        sides = {name: lambda number, step=step: step(*batches[number % BATCHES]) for name, step in steps.items()}
        times = alternate(sides, rounds)
    return {
        **figures(times, AIMS),
        "case": f"ResNet-{depths[1]} → ResNet-{depths[0]}, 32 × 32, batch {batch}",
        "missing": [peers.PACKAGES[NEEDS[name]] for name in names if name not in steps],
    }


def goals(found: Mapping[str, Any]) -> list[Goal]:
    """What is aimed for."""
    return of_ratios(found, "ResNet-56 → 20")


def section(found: Mapping[str, Any]) -> str:
    """The page's section."""
    return f"""## What the teacher costs

A whole training step (student's forward and backward, teacher, loss, SGD with momentum), {found["case"]},
the sides in turn in one process, {found["rounds"]} rounds. The loss is cross-entropy and KL at T = 4 times T²; Neural
Compressor's KL has another scale and the same cost. *bf16 teacher* is
`teacher: {{precision: bf16, channels_last: true}}`, *warm cache* `cache: {{path: ...}}` with all rows there, hashed and
read in every step. The student is fp32 on all sides.

{times_table(found, HAND if HAND in found["seconds"] else next(iter(found["seconds"])))}

{ratios_table(found["ratios"])}"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--depths", type=int, nargs=2, default=(20, 56), help="of student and teacher")
    parser.add_argument("--sides", nargs="+", default=list(makers("", [])), help="only these")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found = measure(options.sides, rounds=options.rounds, batch=options.batch, depths=tuple(options.depths))
    print(section(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
