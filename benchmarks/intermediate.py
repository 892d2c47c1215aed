"""What following hidden layers costs, against hand-written loops that compute the same loss.

Two cases: a teacher of 12 layers of which only layer 4 is tapped, against a loop that runs the whole teacher (the
teacher's own time, and whether the losses are the same to the last bit); and a criterion of 6 pairs, against
a loop with forward hooks written by hand. Loops run in one process, in turn; ratios are medians of the rounds' own.

Run: python -m benchmarks.intermediate [--rounds 60] [--threads 2] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.resnet import resnet20, resnet56
from benchmarks.step_cost import seconds
from kdhooks import Distillation
from kdhooks.torch import IntermediateLayersKnowledgeDistillationLoss
from kdhooks.torch.teacher import Teacher

PAIRS = [["bn1", "bn1"], ["layer1", "layer1"], ["layer2.0", "layer2.0"], ["layer2", "layer2"]]
PAIRS += [["layer3.0", "layer3.0"], ["layer3", "layer3"]]

Step = Callable[[], Any]


class Encoder(nn.Module):
    """Transformer layers in a row; [N, T, D] to [N, classes]."""

    def __init__(self, layers: int, width: int = 256) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 4, 4 * width, 0.0, batch_first=True) for _ in range(layers)
        )
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


def paired(hand: Step, hooks: Step, rounds: int) -> dict[str, Any]:
    """Medians of both in seconds, and of the rounds' ratios."""
    pairs = []
    for step in (hand, hooks):
        seconds(step, 2)
    for index in range(rounds):
        order = (hand, hooks) if index % 2 else (hooks, hand)
        times = {id(step): seconds(step, 1) for step in order}
        pairs.append((times[id(hand)], times[id(hooks)]))
    ratios = sorted(ours / theirs for theirs, ours in pairs)
    return {
        "hand_written_s": statistics.median(theirs for theirs, _ in pairs),
        "hooks_s": statistics.median(ours for _, ours in pairs),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
        "rounds": rounds,
    }


def early_end(rounds: int) -> dict[str, Any]:
    """The teacher's time with layer 4 of 12, and whether the loss has the same bits."""
    torch.manual_seed(1)
    student, teacher = Encoder(2), Encoder(12).eval()
    x, y = torch.randn(16, 64, 256), torch.randint(10, (16,))
    whole, kept = Teacher(copy.deepcopy(teacher), student), {}
    whole.model.layers[3].register_forward_hook(lambda module, args, output: kept.update(feature=output))
    ending = Teacher(teacher, student)
    wanted = frozenset([("layers.3", False)])
    whole.on_train_begin(), ending.on_train_begin()
    ending.tap().attach(wanted)
    result = paired(lambda: whole(x), lambda: ending.features(x, wanted), rounds)
    ending.on_train_end()
    distiller = Distillation(student_model=student, teacher_model=teacher)
    distiller.criterion = IntermediateLayersKnowledgeDistillationLoss(
        [["layers.1", "layers.3"]], add_origin_loss=True, loss_weights=[1.0]
    )
    with distiller:
        for _ in range(3):
            output = student(x)
            total = distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y))
    hidden = student.layers[1](student.layers[0](x))
    by_hand = F.cross_entropy(student(x), y) + F.mse_loss(hidden, kept["feature"].clone())  # made in inference mode
    return result | {"same_bits": bool(torch.equal(total, by_hand))}


def by_hand(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor) -> Step:
    """A step with forward hooks on both models, as people write it."""
    teacher.eval()
    mine: dict[str, Tensor] = {}
    theirs: dict[str, Tensor] = {}
    for model, store in ((student, mine), (teacher, theirs)):
        modules = dict(model.named_modules())
        for name in {pair[model is teacher] for pair in PAIRS}:
            modules[name].register_forward_hook(
                lambda module, args, output, store=store, name=name: store.update({name: output})
            )
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)

    def step() -> None:
        output = student(x)
        loss = F.cross_entropy(output, y)
        with torch.no_grad():
            teacher(x)
        for one, other in PAIRS:
            loss = loss + F.mse_loss(mine[one], theirs[other]) / len(PAIRS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def with_hooks(student: nn.Module, teacher: nn.Module, x: Tensor, y: Tensor) -> Step:
    """The same step with the criterion; the teacher is wanted whole, so that only the hooks are compared."""
    distiller = Distillation(student_model=student, teacher_model=teacher)
    distiller.criterion = IntermediateLayersKnowledgeDistillationLoss(PAIRS, add_origin_loss=True)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.01, momentum=0.9)
    distiller.on_train_begin(optimizer=optimizer)

    def step() -> None:
        output = student(x)
        loss = distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def main() -> None:
    """Measure both cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    x, y = torch.randn(128, 3, 32, 32), torch.randint(100, (128,))
    result = {
        "teacher_ends_at_4_of_12": early_end(options.rounds),
        "six_pairs": paired(
            by_hand(resnet20(), resnet56(), x, y), with_hooks(resnet20(), resnet56(), x, y), options.rounds
        ),
    }
    for name, case in result.items():
        low, high = case["ratio_quartiles"]
        print(
            f"{name:24s} by hand {case['hand_written_s'] * 1e3:9.3f} ms  hooks {case['hooks_s'] * 1e3:9.3f} ms  "
            f"ratio {case['ratio']:.3f} ({low:.3f} to {high:.3f})"
            + (f"  same bits: {case['same_bits']}" if "same_bits" in case else "")
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(result, file, indent=2)


def markdown(results: dict[str, dict[str, Any]]) -> str:
    """The figures as a table."""
    titles = {"teacher_ends_at_4_of_12": "teacher ends at layer 4 of 12", "six_pairs": "a step with six pairs"}
    lines = ["| case | by hand, ms | kdhooks, ms | ratio | quartiles |", "| --- " * 5 + "|"]
    for name, title in titles.items():
        case = results[name]
        low, high = case["ratio_quartiles"]
        same = ", the same loss to the last bit" if case.get("same_bits") else ""
        lines.append(
            f"| {title}{same} | {case['hand_written_s'] * 1e3:.1f} | {case['hooks_s'] * 1e3:.1f} "
            f"| {case['ratio']:.3f} | {low:.3f} to {high:.3f} |"
        )
    return "\n".join(lines)


def section(results: dict[str, dict[str, Any]]) -> str:
    """The page's section."""
    return f"""## Hidden layers

A teacher of 12 layers of which only layer 4 is tapped, against running all of it (its forward only; the aim is 0.6),
and a step with six pairs of layers, ResNet-56 → ResNet-20, batch 128, against a loop with forward hooks written by hand
that computes the same (the aim is 1.02). Both sides of the latter allocate and free many megabytes of features a step,
which makes it noisier than the others.

{markdown(results)}"""


if __name__ == "__main__":
    main()
