"""Two steps to time with and without something: of models that people train, and of some that cost nothing."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.resnet import resnet20, resnet56


def mlp(hidden: int, seed: int) -> nn.Sequential:
    """Two layers, 64 to 10."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(64, hidden), nn.ReLU(), nn.Linear(hidden, 10))


def step_options(description: str | None) -> argparse.Namespace:
    """What a benchmark of both cases is asked for; sets torch's threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=60, help="of the ResNets; the MLP has eight times as many")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def step_cases(compare: Callable[..., dict[str, Any]], rounds: int) -> dict[str, Any]:
    """What `compare` finds of both, by their titles.

    Args:
        compare: called with student, teacher, inputs and labels, and how many rounds of how many steps.
        rounds: of the ResNets; the others have eight times as many.
    """
    torch.manual_seed(0)
    images, labels = torch.randn(128, 3, 32, 32), torch.randint(100, (128,))
    rows, targets = torch.randn(64, 64), torch.randint(10, (64,))
    return {
        "ResNet-56 → ResNet-20, 32 × 32, batch 128": compare(
            resnet20(), resnet56(), images, labels, rounds=rounds, inner=1
        ),
        "two-layer MLP 64-32-10, teacher 64-128-10, batch 64": compare(
            mlp(32, 1), mlp(128, 2), rows, targets, rounds=8 * rounds, inner=50
        ),
    }
