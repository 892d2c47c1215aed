"""A ResNet compressed by the ready-made loop: nothing is written but the models, the data and how to test.

    python examples/resnet_compression.py           # FashionMNIST, some minutes on a few cores
    python examples/resnet_compression.py --quick   # generated images, to see that it runs

The teacher is trained first and kept in .kdhooks/resnet-teacher.pt. Then the same small student is trained twice by
`KnowledgeDistillationTraining`: alone, with a coefficient of 0 for ``kd_loss``, and with the teacher. The folder of
each run has its checkpoints and event files: tensorboard --logdir .kdhooks/resnet. FashionMNIST comes from Debian's
package dataset-fashion-mnist. Needs `pip install 'kdhooks[torch,lightning,report]'`.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks import KnowledgeDistillationTraining
from kdhooks.datasets import build_dataset

SAVED = Path(".kdhooks/resnet-teacher.pt")


class Block(nn.Module):
    """Two convolutions beside a shortcut (He et al. 2016)."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        same = channels == out and stride == 1
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


class ResNet(nn.Module):
    """Three stages; with labels it brings the loss against them along, as the student does."""

    def __init__(self, blocks: int, width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        channels = width
        for stage in range(3):
            for number in range(blocks):
                out = width * 2**stage
                layers.append(Block(channels, out, 2 if stage and not number else 1))
                channels = out
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(channels, 10)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        logits = self.head(self.features(x))
        if labels is None:
            return {"logits": logits}
        return {"logits": logits, "loss": {"student_loss": F.cross_entropy(logits, labels)}}


class InferencePipeline:
    """Tests a model on a loader; its device is the student's, since it says none."""

    device = torch.device("cpu")

    def run_inference_pipeline(self, model: nn.Module, data_loader: Any) -> dict[str, float]:
        model.eval()
        right = 0
        with torch.no_grad():
            for x, y in data_loader:
                predicted = model(x.to(self.device))["logits"].argmax(-1)
                right += int((predicted == y.to(self.device)).sum())
        return {"inference_result": right / len(data_loader.dataset)}


def images(quick: bool, *, train: bool) -> TensorDataset:
    """Images [1, 28, 28] with labels: FashionMNIST's, or generated ones."""
    if quick:
        made = build_dataset("dummy", {"shape": [1, 28, 28], "size": 512 if train else 128, "train": train})
        return TensorDataset(torch.as_tensor(made.inputs), torch.as_tensor(made.targets))
    data = build_dataset("FashionMNIST", {"train": train})
    pixels = torch.as_tensor(data.inputs).reshape(-1, 1, 28, 28).float() / 255
    return TensorDataset((pixels - 0.286) / 0.353, torch.as_tensor(data.targets).long())


def trained_teacher(loader: Any, epochs: int, keep: bool) -> ResNet:
    """From its file, or trained now by an ordinary loop."""
    teacher = ResNet(blocks=2, width=32)
    if keep and SAVED.exists():
        teacher.load_state_dict(torch.load(SAVED, weights_only=True))
        return teacher
    optimizer = torch.optim.SGD(teacher.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=epochs * len(loader))
    for _ in range(epochs):
        for x, y in loader:
            with torch.autocast("cpu", torch.bfloat16):
                loss = teacher(x, y)["loss"]["student_loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
    if keep:
        SAVED.parent.mkdir(parents=True, exist_ok=True)
        torch.save(teacher.state_dict(), SAVED)
    return teacher


def main() -> None:
    parser = argparse.ArgumentParser(description="a ResNet compressed by the ready-made loop")
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    epochs = 3 if quick else 8
    train = DataLoader(images(quick, train=True), batch_size=64 if quick else 256, shuffle=True)
    test = DataLoader(images(quick, train=False), batch_size=500)
    teacher = trained_teacher(train, epochs, keep=not quick)
    pipeline = InferencePipeline()

    print(f"{'model':<16}{'parameters':>12}{'accuracy':>10}")
    rows = [("teacher", teacher, pipeline.run_inference_pipeline(teacher.eval(), test)["inference_result"])]
    for name, coefficients in (
        ("student alone", {"kd_loss": 0, "student_loss": 1}),
        ("distilled", {"kd_loss": 0.9, "student_loss": 0.1}),
    ):
        torch.manual_seed(0)  # both students begin with the same weights
        training = KnowledgeDistillationTraining(
            teacher_model=teacher,
            student_model=ResNet(blocks=1, width=8),
            train_data_loader=train,
            val_data_loaders={"test": test},
            inference_pipeline=pipeline,
            max_epoch=epochs,
            optimize_method="adam",
            scheduler_method="linear_decay_with_warm_up",
            num_lr_warm_up_epoch=1,
            learning_rate=0.005,
            final_loss_coeff_dict=coefficients,
            temperature=4,
            logging_param={"coefficients": str(coefficients)},
            workspace=".kdhooks/resnet",
            progress_bar=not quick,
        )
        rows.append((name, training.start_kd_training(), training.best_score or 0.0))
    for name, model, accuracy in rows:
        print(f"{name:<16}{sum(one.numel() for one in model.parameters()):>12,}{100 * accuracy:>9.1f}%")
    print(f"a page of the last run: kdhooks report {training.folder}")


if __name__ == "__main__":
    main()
