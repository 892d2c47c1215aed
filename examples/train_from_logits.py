"""The second of two scripts: a ResNet learns from logits that save_logits.py has stored; no teacher is loaded.

    python examples/save_logits.py && python examples/train_from_logits.py
    python examples/save_logits.py --quick && python examples/train_from_logits.py --quick

The dataset hands out the stored logits beside each image, in workers of the DataLoader too, and the loop hands them on
as `teacher_output`. An image is found by its own pixels, so the order, the batches and the number of epochs are free.
"""

from __future__ import annotations

import argparse
import time

import torch
import torch.nn.functional as F
from save_logits import STORE
from torch.utils.data import DataLoader, Dataset
from vision.clothes import accuracy, images, resnet

from kdhooks import Distillation
from kdhooks.torch import StoredOutputs

CRITERION = {"KnowledgeDistillationLoss": {"temperature": 4.0, "loss_types": ["CE", "KL"], "loss_weights": [0.1, 0.9]}}


def train(student: torch.nn.Module, data: Dataset, epochs: int, distiller: Distillation | None = None) -> float:
    """An ordinary loop; the lines of kdhooks are marked. Returns the seconds it took."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    began = time.perf_counter()
    if distiller is not None:
        distiller.on_train_begin()  # kdhooks
    for _ in range(epochs):
        for x, y, taught in DataLoader(data, batch_size=128, shuffle=True):
            output = student(x)
            loss = F.cross_entropy(output.logits, y)
            if distiller is not None:
                loss = distiller.on_after_compute_loss(x, output, loss, taught)  # kdhooks
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if distiller is not None:
            distiller.on_epoch_end()  # kdhooks
    if distiller is not None:
        distiller.on_train_end()  # kdhooks
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description="a student that learns from stored logits")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    count, epochs = (512, 2) if quick else (20_000, 5)
    data = StoredOutputs(images(count, train=True), STORE)  # kdhooks
    unseen = images(1_000 if quick else 10_000, train=False)

    print(f"{'student':<14}{'accuracy':>9}{'seconds':>9}")
    for name in ("alone", "distilled"):
        torch.manual_seed(1)
        student = resnet()
        conf = {"distillation": {"train": {"criterion": CRITERION}}}
        distiller = Distillation(conf, student_model=student) if name == "distilled" else None
        seconds = train(student, data, epochs, distiller)
        print(f"{name:<14}{accuracy(student, unseen):>8.2f}%{seconds:>9.1f}")


if __name__ == "__main__":
    main()
