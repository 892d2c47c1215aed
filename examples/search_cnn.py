"""Search for a student on FashionMNIST: accuracy against latency, every candidate distilled block by block.

    python examples/search_cnn.py             # 20 candidates, some minutes
    python examples/search_cnn.py --quick     # four candidates and few images, to see that it runs

The space has three dimensions; a Gaussian process proposes the next candidate. Each is distilled for a short time: its
two blocks after the teacher's, one after the other (flash distillation), then the whole network with the labels
(regular distillation). What would have too many parameters is not trained at all. The study is kept in .kdhooks, so the
same command goes on where it was stopped; the folder that is named at the end has the table, a JSON and one HTML page
with the plots. The data come from Debian's package dataset-fashion-mnist. Needs kdhooks[search].
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from kdhooks import AutoDistillation, Distillation, DistillationConf

YAML = """
model: {name: search-cnn}

auto_distillation:
  search:
    search_space:
      width: {low: 4, high: 24, step: 4}      # channels of the first block
      depth: [1, 2, 3]                        # convolutions of a block
      kernel: [3, 5]
    search_algorithm: BO
    metrics: [accuracy, latency]
    higher_is_better: [true, false]
    max_trials: 20
    startup_trials: 6
    seed: 42
    constraints: [parameters <= 60e3]
  flash_distillation:                         # block k after the teacher's block k
    block_names: [block1, block2]
    layer_mappings_for_knowledge_transfer: [[[block1, block1]], [[block2, block2]]]
    loss_types: [[MSE], [MSE]]
    train_steps: [60, 60]
  regular_distillation:                       # then all of it, with the labels
    layer_mappings_for_knowledge_transfer: [[[head, head]]]
    loss_types: [[KL]]
    loss_weights: [[0.5]]
    add_origin_loss: [true]
    train_steps: [180]

distillation:
  train:                                      # of the teacher, and of every stage
    end_epoch: 2
    optimizer: {Adam: {learning_rate: 0.002}}
    dataloader:
      batch_size: 64
      shuffle: true
      dataset: {FashionMNIST: {train: true, limit: 20000}}
      transform: {Normalize: {mean: 0.286, std: 0.353}}

evaluation:
  accuracy:
    metric: {topk: 1}
    dataloader:
      batch_size: 500
      dataset: {FashionMNIST: {train: false}}
      transform: {Normalize: {mean: 0.286, std: 0.353}}
"""
SEARCH = "auto_distillation.search"
QUICK: dict[str, Any] = {
    f"{SEARCH}.max_trials": 4,
    f"{SEARCH}.startup_trials": 2,
    "auto_distillation.flash_distillation.train_steps": [4, 4],
    "auto_distillation.regular_distillation.train_steps": [8],
    "distillation.train.end_epoch": 1,
    "distillation.train.dataloader.dataset": {"FashionMNIST": {"train": True, "limit": 512}},
    "evaluation.accuracy.dataloader.dataset": {"FashionMNIST": {"train": False, "limit": 200}},
}
ALONE = {
    "model.name": "search-teacher",
    "distillation.train.criterion": {"KnowledgeDistillationLoss": {"loss_weights": [1, 0]}},
}
SAVED = Path(".kdhooks/search-teacher.pt")


class Network(nn.Module):
    """Two blocks at 14 × 14 and 7 × 7, an average, and the classes."""

    def __init__(self, width: int, depth: int, kernel: int) -> None:
        super().__init__()
        self.block1 = block(1, width, depth, kernel)
        self.block2 = block(width, 2 * width, depth, kernel)
        self.head = nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block2(self.block1(x)).mean((2, 3)))
        return logits


def block(channels: int, width: int, depth: int, kernel: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index in range(depth):
        before, stride = (width, 1) if index else (channels, 2)
        layers += [nn.Conv2d(before, width, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers)


def model_builder(arch: dict[str, Any]) -> nn.Module:
    """A candidate from a point of the space."""
    return Network(**arch)


def trained_teacher(conf: DistillationConf, keep: bool) -> nn.Module:
    """A wide network, from its file or trained now with the labels alone."""
    torch.manual_seed(0)
    teacher = Network(width=48, depth=3, kernel=3)
    if keep and SAVED.exists():
        teacher.load_state_dict(torch.load(SAVED, weights_only=True))
        return teacher
    alone = DistillationConf(conf)  # a copy
    for path, value in ALONE.items():
        alone[path] = value
    Distillation(alone, student_model=teacher).fit()
    if keep:
        torch.save(teacher.state_dict(), SAVED)
    return teacher


def main() -> None:
    parser = argparse.ArgumentParser(description="search for a student on FashionMNIST")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    conf = DistillationConf(yaml.safe_load(YAML))
    for path, value in (QUICK if options.quick else {}).items():
        conf[path] = value
    teacher = trained_teacher(conf, keep=not options.quick)

    search = AutoDistillation(model_builder, conf, teacher_model=teacher)
    best = search.search_loop()
    result = search.search_result
    print(result.table())
    print("\nnothing else is both more accurate and faster than one of these:")
    for candidate in result.pareto:
        accuracy, latency = candidate.metrics["accuracy"], candidate.metrics["latency"]
        print(f"  {100 * accuracy:5.1f}%  {1000 * latency:6.3f} ms  {dict(candidate.arch)}")
    print(f"the best compromise: {best}")
    print(f"table, JSON and page: {result.save(conf.workspace)}")


if __name__ == "__main__":
    main()
