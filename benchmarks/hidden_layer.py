"""One pair of hidden layers: BERT with 12 layers of 768 → 4 layers of 312, 16 × 64 tokens, the teacher's layer 4.

The loss is the student's own and the MSE of one pair of hidden states through a linear matcher. Weights are random:
only time is measured. A loop written by hand runs all of the teacher; kdhooks ends it behind its fourth layer.

Run: python -m benchmarks.hidden_layer [--rounds 20] [--threads 2] [--sides NAME ...] [--json FILE]
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

from benchmarks import peers
from benchmarks.alternate import Aim, alternate, figures, ratios_table, times_table
from benchmarks.goals import Goal, of_ratios
from benchmarks.peers import Step, logits, sgd
from benchmarks.teacher_cost import present
from kdhooks import Distillation

PAIR = ("bert.encoder.layer.1", "bert.encoder.layer.3")
CLASSES, VOCABULARY = 2, 30_522
HAND, LIVE, FAST = "hooks by hand, fp32", "kdhooks, fp32", "kdhooks, bf16 teacher"
NEURAL_COMPRESSOR, STUDENT, TEACHER = "Neural Compressor's criterion", "student alone", "teacher's forward alone, fp32"
AIMS = (
    Aim(FAST, HAND, 0.42),
    Aim(FAST, NEURAL_COMPRESSOR, 0.45),
    Aim(LIVE, HAND),
    Aim(NEURAL_COMPRESSOR, HAND),
)
NEEDS = {NEURAL_COMPRESSOR: "neural_compressor"}


def bert(layers: int, hidden: int, heads: int, inner: int) -> nn.Module:
    """BERT with random weights and a classifier."""
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            num_hidden_layers=layers,
            hidden_size=hidden,
            num_attention_heads=heads,
            intermediate_size=inner,
            num_labels=CLASSES,
        )
    )


def optimize(optimizer: torch.optim.Optimizer, loss: Tensor) -> Tensor:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def by_hand(student: nn.Module, teacher: nn.Module) -> Step:
    """Forward hooks on both models and a linear layer that is trained beside the student, as people write it."""
    teacher.eval()
    kept: dict[str, Tensor] = {}
    for model, name in ((student, PAIR[0]), (teacher, PAIR[1])):
        model.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: kept.update(
                {name: output[0] if isinstance(output, tuple) else output}
            )
        )
    matcher = nn.Linear(student.config.hidden_size, teacher.config.hidden_size)
    optimizer = sgd([*student.parameters(), *matcher.parameters()])

    def step(x: Any, y: Tensor) -> Tensor:
        loss = F.cross_entropy(logits(student(**x)), y)
        with torch.no_grad():
            teacher(**x)
        return optimize(optimizer, loss + F.mse_loss(matcher(kept[PAIR[0]]), kept[PAIR[1]]))

    return step


def with_hooks(student: nn.Module, teacher: nn.Module, **settings: Any) -> Step:
    """The criterion of hidden layers, with settings of the teacher."""
    options = {"layer_mappings": [list(PAIR)], "feature_matchers": ["linear"], "add_origin_loss": True}
    train = {"criterion": {"IntermediateLayersKnowledgeDistillationLoss": options}}
    conf = {"distillation": {"train": train, "teacher": settings}}
    distiller = Distillation(conf, student_model=student, teacher_model=teacher)
    optimizer = sgd(student.parameters())
    distiller.on_train_begin(optimizer=optimizer)

    def step(x: Any, y: Tensor) -> Tensor:
        output = student(**x)
        return optimize(optimizer, distiller.on_after_compute_loss(x, output, F.cross_entropy(logits(output), y)))

    return step


def alone(student: nn.Module) -> Step:
    optimizer = sgd(student.parameters())
    return lambda x, y: optimize(optimizer, F.cross_entropy(logits(student(**x)), y))


def forward_alone(teacher: nn.Module) -> Step:
    teacher.eval()

    def step(x: Any, y: Tensor) -> object:
        with torch.no_grad():
            return teacher(**x)

    return step


MAKERS: dict[str, Callable[[nn.Module, nn.Module], Step]] = {
    HAND: by_hand,
    LIVE: with_hooks,
    FAST: lambda student, teacher: with_hooks(student, teacher, precision="bf16"),
    NEURAL_COMPRESSOR: lambda student, teacher: peers.neural_compressor_layers(student, teacher, PAIR),
    STUDENT: lambda student, teacher: alone(student),
    TEACHER: lambda student, teacher: forward_alone(teacher),
}


def measure(names: list[str], *, rounds: int, small: bool = False) -> dict[str, Any]:
    """Time the sides in turn; `small` models and batches are for a test."""
    torch.manual_seed(0)
    student, teacher = (
        (bert(4, 24, 2, 48), bert(12, 48, 4, 96)) if small else (bert(4, 312, 12, 1200), bert(12, 768, 12, 3072))
    )
    rows, length = (2, 8) if small else (16, 64)
    batches = [
        (
            {
                "input_ids": torch.randint(VOCABULARY, (rows, length)),
                "attention_mask": torch.ones(rows, length, dtype=torch.int64),
            },
            torch.randint(CLASSES, (rows,)),
        )
        for _ in range(4)
    ]
    wanted = present(names, NEEDS)
    steps = {name: MAKERS[name](copy.deepcopy(student), copy.deepcopy(teacher)) for name in wanted}
    sides = {name: lambda number, step=step: step(*batches[number % 4]) for name, step in steps.items()}
    return {
        **figures(alternate(sides, rounds), AIMS),
        "tokens": f"{rows} × {length}",
        "missing": [peers.PACKAGES[NEEDS[name]] for name in names if name not in steps],
    }


def goals(found: Mapping[str, Any]) -> list[Goal]:
    """What is aimed for."""
    return of_ratios(found, "BERT 12 × 768 → 4 × 312")


def section(found: Mapping[str, Any]) -> str:
    """The page's section."""
    return f"""## A teacher that ends early

A whole training step, BERT 12 × 768 → 4 × 312, {found["tokens"]} tokens, the student's own loss and the MSE of one pair
(the student's second layer, the teacher's fourth) through a linear matcher, the sides in turn in one process,
{found["rounds"]} rounds. Hooks written by hand and Neural Compressor's criterion run all twelve layers.
*bf16 teacher* is `teacher: {{precision: bf16}}`.

{times_table(found, HAND)}

{ratios_table(found["ratios"])}"""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--small", action="store_true", help="tiny models, to try the program")
    parser.add_argument("--sides", nargs="+", default=list(MAKERS), help="only these")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if lacking := peers.missing("transformers"):
        parser.error(f"this needs {lacking[0]}: pip install -r benchmarks/requirements-peers.txt")
    torch.set_num_threads(options.threads)
    found = measure(options.sides, rounds=options.rounds, small=options.small)
    print(section(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
