"""Lightning with one callback more: an unchanged module and trainer, and a student that learns from a teacher.

    python examples/lightning_fit.py
    python examples/lightning_fit.py --quick     # a few epochs, to see that it runs

8 × 8 images of digits, of which a small part has labels for the student. A convolutional teacher was trained with all
labels. A small student is trained twice by the same `LightningModule` and the same `Trainer` call: alone, and with
`DistillationCallback` in `callbacks`, for which all training images count and the labels of those 100 only. Prints the
accuracy on 450 images that nobody trained on. Needs scikit-learn and lightning.
"""

from __future__ import annotations

import argparse
import logging
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer, seed_everything
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks import Distillation
from kdhooks.integrations.lightning import DistillationCallback

CONF = {
    "distillation": {
        "train": {
            "criterion": {
                "KnowledgeDistillationLoss": {
                    "temperature": 4.0,
                    "loss_types": ["CE", "KL"],
                    "loss_weights": [0.1, 0.9],
                }
            }
        }
    }
}
UNLABELLED = -100


class Digits(LightningModule):
    """What a user has already; it knows nothing of distillation."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        # a batch without any label has a loss of 0 rather than NaN
        summed = F.cross_entropy(self.model(x), y, ignore_index=UNLABELLED, reduction="sum")
        return summed / (y != UNLABELLED).sum().clamp(min=1)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        self.log("accuracy", (self.model(x).argmax(1) == y).float().mean())

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=2e-3)


def make_teacher() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU(), nn.Flatten(), nn.Linear(1024, 10),
    )  # fmt: skip


def make_student() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


def fit(model: nn.Module, data: DataLoader[Any], test: DataLoader[Any], epochs: int, *callbacks: Any) -> float:
    """Train and return the accuracy."""
    module = Digits(model)
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        max_epochs=epochs, callbacks=list(callbacks), accelerator="cpu", enable_model_summary=False, **quiet
    )
    trainer.fit(module, data)
    return float(trainer.validate(module, test, verbose=False)[0]["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description="distillation in Lightning")
    parser.add_argument("--quick", action="store_true")
    epochs = 3 if parser.parse_args().quick else 30
    for name in ("lightning.pytorch", "kdhooks"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*does not have many workers|.*LeafSpec|You defined a `validation_step`")
    seed_everything(0, verbose=False)
    torch.set_num_threads(1)

    images, labels = load_digits(return_X_y=True)
    x, test_x, y, test_y = train_test_split(images, labels, test_size=450, random_state=0, stratify=labels)
    x, test_x = (torch.tensor(part / 16, dtype=torch.float32).view(-1, 1, 8, 8) for part in (x, test_x))
    y, test_y = torch.tensor(y), torch.tensor(test_y)
    few = y.where(torch.arange(len(y)) < 100, UNLABELLED)  # the first 100 are in no order
    test = DataLoader(TensorDataset(test_x, test_y), 450)
    everything = DataLoader(TensorDataset(x, y), 64, shuffle=True)
    partly = DataLoader(TensorDataset(x, few), 64, shuffle=True)

    teacher = make_teacher()
    taught = fit(teacher, everything, test, epochs)
    seed_everything(1, verbose=False)
    alone = fit(make_student(), partly, test, epochs)
    seed_everything(1, verbose=False)
    distiller = Distillation(CONF, teacher_model=teacher)
    distilled = fit(make_student(), partly, test, epochs, DistillationCallback(distiller))

    print(f"{'model':<16}{'labels':>8}{'accuracy':>10}")
    for name, count, accuracy in (
        ("teacher", len(y), taught),
        ("student alone", 100, alone),
        ("distilled", 100, distilled),
    ):
        print(f"{name:<16}{count:>8,}{100 * accuracy:>9.1f}%")
    print(distiller.history.table())


if __name__ == "__main__":
    main()
