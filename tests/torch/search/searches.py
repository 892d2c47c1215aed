"""Tiny searches with real training: a student of one hidden layer learns from a wider teacher."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks import AutoDistillation

FEATURES, CLASSES = 6, 3
STAGES: dict[str, Any] = {
    "flash_distillation": {
        "block_names": ["hidden"],
        "layer_mappings_for_knowledge_transfer": [[["hidden", "hidden"]]],
        "loss_types": [["MSE"]],
        "train_steps": [4],
    },
    "regular_distillation": {
        "layer_mappings_for_knowledge_transfer": [["head"]],
        "loss_types": ["KL"],
        "add_origin_loss": True,
        "train_steps": 8,
    },
}


class Net(nn.Module):
    """One hidden layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(FEATURES, width)
        self.drop = nn.Dropout(0.2)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Any:
        return self.head(self.drop(torch.relu(self.hidden(x))))


def build(arch: Mapping[str, Any]) -> nn.Module:
    return Net(arch["width"])


def teacher() -> nn.Module:
    generator = torch.random.get_rng_state()
    torch.manual_seed(7)
    made = Net(16).eval()
    torch.random.set_rng_state(generator)
    return made


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    inputs = torch.randn(4, 8, FEATURES, generator=generator)
    return [(one, one[:, :CLASSES].argmax(1)) for one in inputs]


def conf(folder: Path, *, stages: Mapping[str, Any] = STAGES, **search: Any) -> dict[str, Any]:
    """A configuration whose study is a journal in a folder."""
    space = {"width": [2, 3, 4, 5, 6, 8]}
    return {
        "model": {"name": "tiny"},
        "distillation": {"train": {"end_epoch": 2, "optimizer": {"SGD": {"learning_rate": 0.1}}}},
        "auto_distillation": {
            "search": {"search_space": space, "search_algorithm": "Random", "max_trials": 4, **search},
            **stages,
        },
        "evaluation": {"accuracy": {"metric": {"topk": 1}}},
        "tuning": {"workspace": {"path": str(folder)}},
    }


def agent(folder: Path, *, stages: Mapping[str, Any] = STAGES, **search: Any) -> AutoDistillation:
    """A search that trains and judges by its configuration."""
    made = AutoDistillation(build, conf(folder, stages=stages, **search), teacher_model=teacher())
    made.train_dataloader = made.eval_dataloader = batches()
    return made


def facts(made: AutoDistillation) -> list[tuple[Any, ...]]:
    """What must be the same whenever the same search is made: all but times and workers."""
    return [
        (one.number, dict(one.arch), one.state, dict(one.metrics), [stage["losses"] for stage in one.stages])
        for one in made.search_result.candidates
    ]
