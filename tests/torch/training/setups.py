"""Models, data and loggers of the tests of the ready-made loop."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks import KnowledgeDistillationTraining
from tests.torch.small_models import Classifier

ROWS, BATCH, CLASSES = 32, 8, 4


def data(seed: int = 0, rows: int = ROWS) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(rows, 6, generator=generator), torch.randint(CLASSES, (rows,), generator=generator)
    )


def loader(seed: int = 0, rows: int = ROWS, **options: Any) -> DataLoader[Any]:
    return DataLoader(data(seed, rows), **{"batch_size": BATCH, **options})


def linear(seed: int) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Linear(6, CLASSES)


def classifier(seed: int = 1) -> Classifier:
    """With BatchNorm, which counts, and dropout, which draws."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Classifier()


class Brings(nn.Module):
    """A student that returns a mapping and computes losses of its own."""

    def __init__(self, seed: int = 1) -> None:
        super().__init__()
        self.layer = linear(seed)

    def forward(self, x: Tensor, labels: Tensor | None = None) -> dict[str, Any]:
        logits = self.layer(x)
        output: dict[str, Any] = {"logits": logits, "penalty": logits.pow(2).mean(), "milliseconds": 3.5}
        if labels is not None:
            output["loss"] = {"student_loss": F.cross_entropy(logits, labels)}
        return output


class Older(nn.Module):
    """A model as the Knowledge-Distillation-Toolkit had them: it takes the temperature, and softens by itself."""

    def __init__(self, seed: int, *keys: str) -> None:
        super().__init__()
        self.layer, self.keys, self.temperatures = linear(seed), keys or ("logits", "prob", "log_prob"), []

    def forward(self, x: Tensor, temperature: float = 1) -> dict[str, Tensor]:
        self.temperatures.append(temperature)
        logits = self.layer(x) / temperature
        output = {"logits": logits, "prob": logits.softmax(-1), "log_prob": logits.log_softmax(-1)}
        return {key: output[key] for key in self.keys}


class Accuracy:
    """An inference pipeline, which needs nothing but a device and remembers how it was called."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, Any, bool, bool]] = []

    def run_inference_pipeline(self, model: nn.Module, data_loader: Any) -> dict[str, float]:
        self.calls.append((model, data_loader, model.training, torch.is_grad_enabled()))
        right = sum(
            int((model(x.to(self.device)).argmax(-1) == y.to(self.device)).sum())  # type: ignore[attr-defined]
            for x, y in data_loader
        )
        return {"inference_result": right / len(data_loader.dataset)}


class Scores:
    """An inference pipeline that returns numbers of a list, one a call."""

    def __init__(self, *values: Any) -> None:
        self.values = list(values)

    def run_inference_pipeline(self, model: nn.Module, data_loader: Any) -> dict[str, Any]:
        return {"inference_result": self.values.pop(0)}


class Recorder(Logger):
    """Keeps what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[tuple[int, dict[str, float]]] = []
        self.parameters: dict[str, Any] = {}

    name, version = "recorder", 0

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.numbers.append((step or 0, dict(metrics)))

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        self.parameters.update(params if isinstance(params, dict) else vars(params))

    def of(self, name: str) -> dict[int, float]:
        """The values of a name by step."""
        return {step: numbers[name] for step, numbers in self.numbers if name in numbers}


def training(folder: Path, **changes: Any) -> KnowledgeDistillationTraining:
    """A small training of a linear student in full precision, with SGD, where nothing else is asked for."""
    arguments: dict[str, Any] = {
        "student_model": linear(1),
        "teacher_model": linear(2),
        "train_data_loader": loader(),
        "max_epoch": 1,
        "optimize_method": "sgd",
        "learning_rate": 0.1,
        "precision": 32,
        "workspace": folder,
        "log_every_n_steps": 1,
        "progress_bar": False,
    }
    return KnowledgeDistillationTraining(**{**arguments, **changes})


def trained(folder: Path, **changes: Any) -> KnowledgeDistillationTraining:
    made = training(folder, **changes)
    made.start_kd_training()
    return made


def weights(model: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two sets of weights are equal, bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def kd_loss(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T² KL(teacher || student), summed over classes, mean over rows: written out, to compare with."""
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    return temperature**2 * (p * (p.log() - q.log())).sum(-1).mean()
