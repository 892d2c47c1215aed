"""A run with its page: a small ResNet distilled on FashionMNIST, and one HTML file that shows what became of it.

    python examples/report_run.py             # 24 epochs, some minutes
    python examples/report_run.py --quick     # two epochs and few images, to see that it runs

A teacher is trained first. Then the student learns from labels, from the teacher's outputs and from two of its layers,
while a profile times the steps. `fit()` leaves run.json in the run's folder; `write_report` makes the page of it, as
`kdhooks report` does. The page needs no network and no server: open the file that is named at the end. The pictures of
docs/report.md show the page of this program. The data come from Debian's package dataset-fashion-mnist.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from kdhooks import Distillation, DistillationConf
from kdhooks.report import write_report

YAML = """
model: {name: fashion-resnet}

distillation:
  train:
    end_epoch: 24
    optimizer: {SGD: {learning_rate: 0.1, momentum: 0.9, nesterov: true, weight_decay: 0.0005}}
    scheduler: {CosineAnnealing: {warmup_epochs: 1}}
    criterion:
      KnowledgeDistillationLoss:
        temperature: 4.0
        loss_types: [CE, KL]                # student and labels, student and teacher
        loss_weights: [0.1, 0.9]
      IntermediateLayersKnowledgeDistillationLoss:
        layer_mappings: [[layer2], [layer3]]
        loss_types: [cosine, cosine]
        loss_weights: [0.5, 0.5]
        feature_matchers: [auto, auto]      # the student's layers are narrower
    dataloader:
      batch_size: 64
      shuffle: true
      dataset: {FashionMNIST: {train: true, limit: 6000}}
      transform:
        RandomShift: {pixels: 1}
        RandomHorizontalFlip: {}
        Normalize: {mean: 0.286, std: 0.353}

evaluation:
  accuracy:
    metric: {topk: 1}
    dataloader:
      batch_size: 500
      dataset: {FashionMNIST: {train: false}}
      transform: {Normalize: {mean: 0.286, std: 0.353}}

tuning: {random_seed: 1978}
"""
TRAIN = "distillation.train"
ALONE = {
    f"{TRAIN}.end_epoch": 12,
    f"{TRAIN}.criterion": {"KnowledgeDistillationLoss": {"loss_types": ["CE", "KL"], "loss_weights": [1, 0]}},
    "model.name": "fashion-resnet-teacher",
    "tuning.report": False,  # it has no teacher to be compared with
}
QUICK = {
    f"{TRAIN}.end_epoch": 2,
    f"{TRAIN}.dataloader.dataset": {"FashionMNIST": {"train": True, "limit": 256}},
    "evaluation.accuracy.dataloader.dataset": {"FashionMNIST": {"train": False, "limit": 200}},
}


class Block(nn.Module):
    """Two convolutions and what goes past them."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(channels, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU())
        self.conv2 = nn.Sequential(nn.Conv2d(out, out, 3, 1, 1, bias=False), nn.BatchNorm2d(out))
        same = stride == 1 and channels == out
        self.past = nn.Identity() if same else nn.Conv2d(channels, out, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv2(self.conv1(x)) + self.past(x))


class ResNet(nn.Module):
    """Three stages of blocks; the first one has `width` channels."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.layer1 = self._stage(width, width, blocks, 1)
        self.layer2 = self._stage(width, 2 * width, blocks, 2)
        self.layer3 = self._stage(2 * width, 4 * width, blocks, 2)
        self.head = nn.Linear(4 * width, 10)

    @staticmethod
    def _stage(channels: int, out: int, blocks: int, stride: int) -> nn.Sequential:
        return nn.Sequential(Block(channels, out, stride), *(Block(out, out, 1) for _ in range(blocks - 1)))

    def forward(self, x: Tensor) -> Tensor:
        features = self.layer3(self.layer2(self.layer1(self.stem(x))))
        return self.head(features.mean((2, 3)))


def prepared(student: nn.Module, teacher: nn.Module | None, changes: dict[str, Any]) -> Distillation:
    """The YAML with some changes, by path."""
    conf = DistillationConf(yaml.safe_load(YAML))
    for path, value in changes.items():
        conf[path] = value
    return Distillation(conf, student_model=student, teacher_model=teacher)


def main() -> None:
    parser = argparse.ArgumentParser(description="distillation with a page of the run")
    parser.add_argument("--quick", action="store_true")
    quick = QUICK if parser.parse_args().quick else {}
    torch.manual_seed(0)
    teacher, student = ResNet(16, 2), ResNet(8, 1)
    prepared(teacher, None, {**ALONE, **quick}).fit()
    distiller = prepared(student, teacher, quick)
    with distiller.profile():
        distiller.fit()
    print(f"the page of the run: {write_report(distiller.conf.workspace)}")


if __name__ == "__main__":
    main()
