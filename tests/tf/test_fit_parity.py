"""The same YAML trains the same weights in both frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from torch import nn

from kdhooks import Distillation

SGD = {"SGD": {"learning_rate": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01}}
PIXELS, HIDDEN = 64, 12


def pair(width: int, seed: int) -> tuple[Any, Any]:
    """A model of torch and one of Keras with the same weights; of one channel both see the pixels in one order."""
    torch.manual_seed(seed)
    ours = nn.Sequential(nn.Flatten(), nn.Linear(PIXELS, width), nn.Tanh(), nn.Linear(width, 10))
    other = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(width, activation="tanh"),
            keras.layers.Dense(10),
        ]
    )
    other.set_weights(numbers(ours))
    return ours, other


def numbers(model: nn.Module) -> list[Any]:
    return [np.ascontiguousarray(one.detach().numpy().T) for one in model.parameters()]


def configuration(folder: Path, framework: str, **train: Any) -> dict[str, Any]:
    return {
        "model": {"framework": framework},
        "distillation": {
            "train": {
                "end_epoch": 2,
                "iteration": 10,
                "criterion": {"KnowledgeDistillationLoss": {"temperature": 4.0, "loss_weights": [0.3, 0.7]}},
                "dataloader": {"batch_size": 32, "shuffle": True, "dataset": {"digits": {"train": True}}},
            }
            | train
        },
        "evaluation": {
            "accuracy": {
                "multi_metrics": {"topk": {"k": [1, 5]}, "F1": {}, "loss": {}},
                "dataloader": {"batch_size": 200, "dataset": {"digits": {"train": False}}},
            }
        },
        "tuning": {"workspace": {"path": str(folder)}},
    }


CASES: dict[str, dict[str, Any]] = {
    "SGD, cosine, warm-up": {"optimizer": SGD, "scheduler": {"CosineAnnealing": {"warmup_epochs": 1}}},
    "dampening": {"optimizer": {"SGD": {"learning_rate": 0.1, "momentum": 0.9, "dampening": 0.5}}},
    "Adam": {"optimizer": {"Adam": {"learning_rate": 0.003, "weight_decay": 0.01}}},
    "AMSGrad": {"optimizer": {"Adam": {"lr": 0.003, "amsgrad": True, "betas": [0.8, 0.99]}}},
    "AdamW": {"optimizer": {"AdamW": {"learning_rate": 0.003}}},
    "RMSprop": {"optimizer": {"RMSprop": {"learning_rate": 0.003, "momentum": 0.5, "centered": True}}},
    "clipping and accumulation": {"optimizer": SGD, "gradient_clipping": 0.2, "gradient_accumulation": 3},
    "augmentation": {"optimizer": SGD, "dataloader": {
        "batch_size": 32, "shuffle": True, "last_batch": "rollover", "dataset": {"digits": {"train": True}},
        "transform": {"RandomShift": 1, "RandomHorizontalFlip": {}, "Normalize": {"mean": 0.3, "std": 0.4}}}},
    "in Python": {"optimizer": SGD, "execution_mode": "eager"},
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_give_the_same_weights_and_the_same_record(case: str, tmp_path: Path) -> None:
    (student, twin), (teacher, its_twin) = pair(HIDDEN, 1), pair(32, 2)
    records, learned = [], []
    for framework, learner, guide in (("pytorch", student, teacher), ("tensorflow", twin, its_twin)):
        conf = configuration(tmp_path / framework, framework, **CASES[case])
        distiller = Distillation(conf, student_model=learner, teacher_model=guide)
        distiller.fit()
        records.append(distiller.history)
        learned.append(numbers(learner) if framework == "pytorch" else learner.get_weights())
    assert sum(record["steps"] for record in records[0]) == 20
    for one, other in zip(*learned, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)
    for one, other in zip(*records, strict=True):
        assert other["losses"] == pytest.approx(one["losses"], abs=1e-4)
        assert other["metrics"] == pytest.approx(one["metrics"], abs=1e-3)
        assert other["learning_rate"] == pytest.approx(one["learning_rate"], rel=1e-6)
        assert (other["best"], other["steps"]) == (one["best"], one["steps"])
