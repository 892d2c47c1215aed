"""Where the time of a step goes: the ledger of an epoch that fills the store, and of one that reads it.

    python examples/ledger.py
    python examples/ledger.py --quick     # fewer images, to see that it runs

A loop of one's own that says where a step begins and ends, so that the student's part is divided into forward and
backward, and waiting for data stands apart. The first epoch runs the teacher and stores what it says, the second one
finds it there. Both tables are printed, and written as JSON beside the store in .kdhooks/ledger. What is learned does
not matter here: the images are drawn numbers, and the teacher was never trained. It is the time that is real.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import Distillation

FOLDER = Path(".kdhooks") / "ledger"
CONF = {
    "distillation": {
        "train": {"criterion": {"KnowledgeDistillationLoss": {"temperature": 4.0, "loss_weights": [0.1, 0.9]}}},
        "cache": {"path": str(FOLDER / "store")},
    }
}


def network(width: int, depth: int) -> nn.Module:
    """Convolutions on [N, 3, 32, 32] and a head of 100 classes."""
    layers: list[nn.Module] = [nn.Conv2d(3, width, 3, padding=1, stride=2), nn.BatchNorm2d(width), nn.ReLU()]
    for _ in range(depth):
        layers += [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 100))


def epoch(
    distiller: Distillation, optimizer: torch.optim.Optimizer, batches: Iterable[tuple[Tensor, Tensor]], first: int
) -> None:
    """One pass over the data; `first` is the number of its first step."""
    for step, (x, y) in enumerate(batches, first):
        distiller.on_step_begin(step)
        output = distiller.student_model(x)
        loss = F.cross_entropy(output, y)
        loss = distiller.on_after_compute_loss(x, output, loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        distiller.on_step_end()
    distiller.on_epoch_end()


def main() -> None:
    parser = argparse.ArgumentParser(description="where the time of a step goes")
    parser.add_argument("--quick", action="store_true")
    count = 512 if parser.parse_args().quick else 4096
    torch.manual_seed(0)
    shutil.rmtree(FOLDER, ignore_errors=True)  # the first epoch finds nothing
    data = torch.utils.data.TensorDataset(torch.randn(count, 3, 32, 32), torch.randint(100, (count,)))
    loader = torch.utils.data.DataLoader(data, batch_size=64, shuffle=True)
    distiller = Distillation(CONF, student_model=network(16, 3), teacher_model=network(64, 6))
    optimizer = torch.optim.SGD(distiller.student_model.parameters(), lr=0.05, momentum=0.9)
    with distiller:
        for number, name in enumerate(("filling", "reading")):
            with distiller.profile() as ledger:
                epoch(distiller, optimizer, loader, number * len(loader))
            print(f"\n{name} the store: {ledger}")
            print(f"written: {ledger.save(FOLDER / f'{name}.json')}\n")


if __name__ == "__main__":
    main()
