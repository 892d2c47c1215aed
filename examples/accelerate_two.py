"""Distillation in a script with Hugging Face Accelerate, in two processes: one object more, the loop as it was.

    python examples/accelerate_two.py [--quick]

The script starts itself twice (gloo, on the CPU); under `accelerate launch` it runs as it is. Data: 1,797 digits of
8 x 8 pixels that come with scikit-learn; the student sees 100 labels, the teacher all of them.
"""

from __future__ import annotations

import argparse
import os

import torch
import torch.nn.functional as F
from accelerate import Accelerator, debug_launcher
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks.datasets.digits import load_digits
from kdhooks.integrations.accelerate import Distilled

UNLABELLED = -100
CONF = {
    "distillation": {
        "train": {
            "criterion": {
                "KnowledgeDistillationLoss": {
                    "temperature": 4.0,
                    "loss_types": ["CE", "KL"],
                    "loss_weights": [0.5, 0.5],
                }
            }
        }
    }
}


def digits(train: bool) -> tuple[torch.Tensor, torch.Tensor]:
    found = load_digits(train=train)
    return torch.from_numpy(found.inputs).flatten(1), torch.from_numpy(found.targets).long()


def train_teacher(x: torch.Tensor, y: torch.Tensor, steps: int) -> nn.Module:
    torch.manual_seed(1)
    teacher = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))
    optimizer = torch.optim.AdamW(teacher.parameters(), lr=3e-3)
    for _ in range(steps):
        rows = torch.randint(len(y), (128,))
        loss = F.cross_entropy(teacher(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return teacher


def train_student(quick: bool, distilled: bool) -> None:
    accelerator = Accelerator(cpu=True)
    x, y = digits(train=True)
    teacher = train_teacher(x, y, 100 if quick else 600)
    few = torch.where(torch.arange(len(y)) < 100, y, UNLABELLED)

    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    loader = DataLoader(TensorDataset(x, few), batch_size=64, shuffle=True)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
    if distilled:
        Distilled(accelerator, CONF, teacher_model=teacher)  # all that distillation takes

    for _ in range(3 if quick else 60):
        for inputs, labels in loader:
            output = model(inputs)
            count = (labels != UNLABELLED).sum().clamp(min=1)  # a batch may have no label at all
            loss = F.cross_entropy(output, labels, ignore_index=UNLABELLED, reduction="sum") / count
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()

    test_x, test_y = digits(train=False)
    student = accelerator.unwrap_model(model).eval()
    with torch.no_grad():
        right = 100 * (student(test_x).argmax(1) == test_y).float().mean().item()
    if accelerator.is_main_process:
        print(f"{'distilled' if distilled else 'alone':<10}{accelerator.num_processes} processes{right:>8.1f}%")


def train(quick: bool) -> None:
    torch.set_num_threads(1)
    for distilled in (False, True):
        train_student(quick, distilled)
    Accelerator(cpu=True).end_training()


def main() -> None:
    parser = argparse.ArgumentParser(description="Accelerate with two processes")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    if "WORLD_SIZE" in os.environ:  # `accelerate launch` and `torchrun` have started the processes
        train(quick)
    else:
        debug_launcher(train, args=(quick,), num_processes=2)


if __name__ == "__main__":
    main()
