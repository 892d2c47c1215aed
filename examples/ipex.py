"""Teacher and student by Intel Extension for PyTorch, on digits, beside the same run without it.

    python examples/ipex.py
    python examples/ipex.py --quick     # one epoch, to see that it runs

Needs pip install 'kdhooks[ipex]' in an environment of its own (it brings torch 2.8, docs/ipex.md), and a processor
with AVX-512; without the extension it ends with the error that says so. Prints what the teacher's optimized copy
differs by, and for both runs the seconds of the last epoch and the score. What `fit()` returns is the student that
was handed in, with nothing of the extension on it.
"""

from __future__ import annotations

import argparse
import sys

import torch
from torch import nn

from kdhooks import ConfigError, Distillation


def make_model(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(width, 2 * width, 3, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.Flatten(), nn.Linear(32 * width, 10),
    )  # fmt: skip


def configuration(ipex: bool, epochs: int, *, with_teacher: bool = True) -> dict[str, object]:
    weights = [0.3, 0.7] if with_teacher else [1.0, 0.0]
    digits = {"batch_size": 128, "shuffle": True, "dataset": {"digits": {"train": True}}}
    held_out = {"batch_size": 256, "dataset": {"digits": {"train": False}}}
    return {
        "model": {"name": "digits-ipex" if ipex else "digits"},
        "distillation": {
            "train": {
                "end_epoch": epochs,
                "optimizer": {"SGD": {"learning_rate": 0.05, "momentum": 0.9, "nesterov": True}},
                "criterion": {"KnowledgeDistillationLoss": {"temperature": 4.0, "loss_weights": weights}},
                "dataloader": digits,
                "precision": "bf16",
                "ipex": ipex,
            },
            "teacher": {"precision": "bf16", "ipex": ipex},
        },
        "evaluation": {"accuracy": {"metric": {"topk": 1}, "dataloader": held_out}},
        "tuning": {"random_seed": 7},
    }


def fit(ipex: bool, student: nn.Module, teacher: nn.Module | None, epochs: int) -> Distillation:
    conf = configuration(ipex, epochs, with_teacher=teacher is not None)
    distiller = Distillation(conf, student_model=student, teacher_model=teacher)
    distiller.fit()
    return distiller


def main() -> None:
    parser = argparse.ArgumentParser(description="teacher and student by Intel Extension for PyTorch")
    parser.add_argument("--quick", action="store_true")
    epochs = 1 if parser.parse_args().quick else 8
    torch.manual_seed(0)
    teacher, student = make_model(64), make_model(8)
    twin = make_model(8)
    twin.load_state_dict(student.state_dict())
    try:
        fit(True, teacher, None, epochs)
        runs = {"with ipex": fit(True, student, teacher, epochs), "without": fit(False, twin, teacher, epochs)}
    except ConfigError as error:
        sys.exit(str(error))
    for name, distiller in runs.items():
        print(f"{name}: {distiller.history[-1]['seconds']:.2f} s an epoch, score {distiller.best_score:.3f}")
    kinds = sorted({type(module).__name__ for module in student.modules()})
    print(f"the student is made of {', '.join(kinds)}")


if __name__ == "__main__":
    main()
