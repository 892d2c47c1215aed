"""All five strategies of the unified transfer API, with one loop for all of them.

    python examples/transferrable.py
    python examples/transferrable.py --quick     # a few steps, to see that it runs

The student has 100 labelled digits, a pretrained model that has learned something else of many digits (their remainder
by 3), a teacher that knows them all, and images of another scanner: with less contrast, noisy, without labels. The loop
is the one that users of e2eAIOK's Model Adaptor have: `model(x)`, `model.loss(output, label)`. Needs scikit-learn.
"""

from __future__ import annotations

import argparse

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from kdhooks.transferrable import KD, BasicFinetunner, TransferrableModel, TransferStrategy, make_transferrable

ADAPTER = {"MK_MMD": {"layer": "3"}, "MCC": {}}
CE = nn.CrossEntropyLoss()


def load() -> tuple[Tensor, Tensor]:
    pixels, digits = load_digits(return_X_y=True)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    return torch.tensor(pixels / 16, dtype=torch.float32).view(-1, 1, 8, 8)[order], torch.tensor(digits)[order]


def other_scanner(x: Tensor) -> Tensor:
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return 0.4 * x + 0.3 + 0.1 * noise


def network(classes: int = 10, width: int = 16) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16 * width, classes)
    )


def train_alone(model: nn.Module, x: Tensor, y: Tensor, steps: int) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        rows = torch.randint(len(x), (64,))
        optimizer.zero_grad()
        CE(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model


def train(model: TransferrableModel, x: Tensor, y: Tensor, target: Tensor, steps: int) -> None:
    """The user's loop; what is transferred is not its business, but for the second batch of a target domain."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for _ in range(steps):
        rows, others = torch.randint(len(x), (64,)), torch.randint(len(target), (64,))
        data = (x[rows], target[others]) if model.adapter is not None else x[rows]
        optimizer.zero_grad()
        loss = model.loss(model(data), y[rows])
        loss.backward()
        optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    model.eval()
    return (model(x).argmax(1) == y).double().mean().item() * 100


def main() -> None:
    parser = argparse.ArgumentParser(description="five strategies of transfer in one loop")
    parser.add_argument("--quick", action="store_true")
    steps = 20 if parser.parse_args().quick else 300
    x, y = load()
    target = other_scanner(x)
    torch.manual_seed(0)
    pretrained = train_alone(network(classes=3), x[:1200], y[:1200] % 3, steps)
    teacher = train_alone(network(width=32), x[:1200], y[:1200], steps)

    print(f"{'':<40}{'source':>8}{'target':>8}")
    torch.manual_seed(1)
    alone = train_alone(network(), x[:100], y[:100], steps)
    print(f"{'alone':<40}{accuracy(alone, x[1200:], y[1200:]):>7.1f}%{accuracy(alone, target[1200:], y[1200:]):>7.1f}%")
    for strategy in TransferStrategy:
        torch.manual_seed(1)
        parts = (BasicFinetunner(pretrained), KD(teacher), ADAPTER)
        model = make_transferrable(network(), CE, *parts, strategy, distiller_loss_weight=0.5)
        train(model, x[:100], y[:100], target[:1200], steps)
        found = accuracy(model, x[1200:], y[1200:]), accuracy(model, target[1200:], y[1200:])
        print(f"{strategy.name:<40}{found[0]:>7.1f}%{found[1]:>7.1f}%")


if __name__ == "__main__":
    main()
