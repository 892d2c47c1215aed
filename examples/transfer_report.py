"""A classifier of many classes gives its weights to one of three others, with a report.

    python examples/transfer_report.py
    python examples/transfer_report.py --quick     # a few steps, to see that it runs

A network has learned the digits 0 to 6 from a thousand images. Another shall tell 7, 8 and 9 apart, from 60. It begins
with the first one's layers, and its head with those of the classes 1, 3 and 4, which look most like its own. The first
layer is frozen with its statistics, set free after some epochs, and learns more slowly then. The same network from
random weights stands beside it. Needs scikit-learn.
"""

from __future__ import annotations

import argparse

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn

from kdhooks import Distillation
from kdhooks.torch.transfer import parameter_groups

FINETUNE = {
    "class_map": {"head": [1, 3, 4]},
    "freeze": ["features.0", "features.1"],
    "unfreeze": {4: ["features"]},
    "lr_factors": {"features.0": 0.1},
}


class Network(nn.Module):
    """Two convolutions with BatchNorm, and a head."""

    def __init__(self, classes: int, width: int = 24) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, 2 * width, 3, padding=1),
            nn.BatchNorm2d(2 * width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x))
        return logits


def digits(first: int, last: int) -> tuple[Tensor, Tensor]:
    """Images [N, 1, 8, 8] of some digits, and their classes from 0."""
    pixels, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    x, y = torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)[order], torch.tensor(labels)[order]
    chosen = (y >= first) & (y <= last)
    return x[chosen], y[chosen] - first


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int, distiller: Distillation | None = None) -> nn.Module:
    """An ordinary loop; the lines of kdhooks are marked."""
    draws = torch.Generator().manual_seed(1)
    groups = parameter_groups(model, FINETUNE["lr_factors"] if distiller else {}, lr=0.1)  # kdhooks
    optimizer = torch.optim.SGD(groups, momentum=0.9)
    if distiller is not None:
        distiller.on_train_begin(optimizer=optimizer)  # kdhooks
    for _ in range(epochs):
        model.train()
        for rows in torch.randperm(len(x), generator=draws).split(20):
            output = model(x[rows])
            loss = F.cross_entropy(output, y[rows])
            if distiller is not None:
                loss = distiller.on_after_compute_loss(x[rows], output, loss)  # kdhooks
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if distiller is not None:
            distiller.on_epoch_end()  # kdhooks
    if distiller is not None:
        distiller.on_train_end()  # kdhooks
    return model


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    return 100 * (model.eval()(x).argmax(1) == y).double().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description="weights of a larger classifier")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.manual_seed(0)
    torch.set_num_threads(1)
    large = train(Network(7), *digits(0, 6), epochs=1 if quick else 12)
    x, y = digits(7, 9)
    few, unseen = (x[:60], y[:60]), (x[60:], y[60:])

    rows = []
    for epochs in (2, 6) if quick else (2, 6, 20):
        torch.manual_seed(1)
        alone = train(Network(3), *few, epochs=epochs)
        torch.manual_seed(1)
        student = Network(3)
        distiller = Distillation({"finetune": FINETUNE}, student_model=student)
        distiller.pretrained_model = large
        train(student, *few, epochs, distiller)
        rows.append((epochs, accuracy(alone, *unseen), accuracy(student, *unseen)))
    print(distiller.transfer_report)
    print(f"\n{'epochs':<8}{'from scratch':>14}{'transferred':>14}   {len(unseen[1])} unseen images, one seed")
    for epochs, scratch, transferred in rows:
        print(f"{epochs:<8}{scratch:>13.1f}%{transferred:>13.1f}%")


if __name__ == "__main__":
    main()
