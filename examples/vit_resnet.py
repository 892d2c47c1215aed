"""A ViT teaches a ResNet, and is asked only once about each image: its logits are kept on disk.

    python examples/vit_resnet.py             # some minutes
    python examples/vit_resnet.py --quick     # a few hundred images, to see that it runs

Both are models of Hugging Face's transformers. The loop is an ordinary one; `cache` in the configuration is all that
the store needs: the first epoch runs the teacher, the others read. The teacher is trained first and kept in
.kdhooks/vit-teacher, where a checkpoint of your own may lie as well. FashionMNIST comes from Debian's package
dataset-fashion-mnist. Needs `pip install 'kdhooks[torch,cache,transformers]'`. The same with a script that saves the
logits and one that trains from them: save_logits.py and train_from_logits.py.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset
from vision.clothes import accuracy, images, resnet, trained_vit

from kdhooks import Distillation

CRITERION = {"KnowledgeDistillationLoss": {"temperature": 4.0, "loss_types": ["CE", "KL"], "loss_weights": [0.1, 0.9]}}


def train(distiller: Distillation, data: TensorDataset, epochs: int) -> list[float]:
    """An ordinary loop; the lines of kdhooks are marked. Returns the seconds of each epoch."""
    student = distiller.student_model
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    loader = DataLoader(data, batch_size=128, shuffle=True)
    seconds = []
    distiller.on_train_begin()  # kdhooks
    for _ in range(epochs):
        began = time.perf_counter()
        for x, y in loader:
            output = student(x)
            loss = F.cross_entropy(output.logits, y)
            loss = distiller.on_after_compute_loss(x, output, loss)  # kdhooks
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        distiller.on_epoch_end()  # kdhooks
        seconds.append(time.perf_counter() - began)
    distiller.on_train_end()  # kdhooks
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description="a ViT, a ResNet and a store of logits")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    count, epochs = (512, 2) if quick else (20_000, 5)
    data, unseen = images(count, train=True), images(1_000 if quick else 10_000, train=False)
    teacher = trained_vit(data, epochs=1 if quick else 15, saved=Path(".kdhooks/vit-teacher"))

    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, cache in {"live teacher": None, "stored logits": {"path": folder}}.items():
            torch.manual_seed(1)
            conf = {"distillation": {"train": {"criterion": CRITERION}, "cache": cache}}
            distiller = Distillation(conf, student_model=resnet(), teacher_model=teacher)
            seconds = train(distiller, data, epochs)
            rows[name] = accuracy(distiller.student_model, unseen), seconds

    print(f"teacher: {accuracy(teacher, unseen):.2f}% of {len(unseen):,} images that nobody was trained on")
    print(f"{'student':<16}{'accuracy':>9}{'first epoch':>13}{'later epochs':>14}")
    for name, (right, seconds) in rows.items():
        print(f"{name:<16}{right:>8.2f}%{seconds[0]:>11.1f} s{sum(seconds[1:]) / len(seconds[1:]):>12.1f} s")


if __name__ == "__main__":
    main()
