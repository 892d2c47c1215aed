"""Lightning modules, data and trainers that are small enough for a test, and the same loops written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from kdhooks import Distillation
from kdhooks.integrations.lightning import DistillationCallback
from tests.torch.hidden_models import Net, criterion
from tests.torch.small_models import Classifier, batches, kd_conf, made

QUIET = [
    "ignore:.*LeafSpec.*",  # Lightning's own, about torch
    "ignore:The '.*_dataloader' does not have many workers",
    "ignore:.*in eval mode at the start of training",
]
"""Warnings of Lightning that say nothing about what is tested."""

quiet = [pytest.mark.filterwarnings(one) for one in QUIET]


class Module(LightningModule):
    """What a user has: a network, a loss, an optimizer; nothing of ours."""

    def __init__(self, model: nn.Module | None = None, *, lr: float = 0.1) -> None:
        super().__init__()
        self.model = made(1, Classifier) if model is None else model
        self.lr = lr
        self.seen: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        loss = F.cross_entropy(self.model(x), y)
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)

    def on_before_backward(self, loss: Tensor) -> None:
        self.seen.append(loss.detach().clone())


class Hidden(Module):
    """With a network whose layers have names."""

    def __init__(self) -> None:
        super().__init__(made(1, Net))


class Manual(Module):
    """Steps by itself."""

    def __init__(self, model: nn.Module | None = None, *, every: int = 1) -> None:
        super().__init__(model)
        self.automatic_optimization = False
        self.every = every

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        x, y = batch
        optimizer = self.optimizers()
        if batch_idx % self.every == 0:
            optimizer.zero_grad()  # type: ignore[union-attr]
        self.manual_backward(F.cross_entropy(self.model(x), y) / self.every)
        if (batch_idx + 1) % self.every == 0:
            optimizer.step()  # type: ignore[union-attr]


def rows(count: int = 40) -> TensorDataset:
    data = batches(count // 8)
    return TensorDataset(torch.cat([x for x, _ in data]), torch.cat([y for _, y in data]))


def loader(**options: Any) -> DataLoader[Any]:
    return DataLoader(rows(), **({"batch_size": 8} | options))


def one(batch: Any) -> DataLoader[Any]:
    """A loader of one batch, as it is."""
    return DataLoader([batch], batch_size=None)  # type: ignore[arg-type]


def teacher() -> Any:
    return made(2, lambda: Classifier(16))


def logits(weights: list[Any] | None = None, **options: Any) -> Distillation:
    return Distillation(kd_conf(weights, **options), teacher_model=teacher())


def layers(**options: Any) -> Distillation:
    """With a matcher that trains."""
    distiller = Distillation(teacher_model=made(2, lambda: Net(12)))
    distiller.criterion = criterion(**options)
    return distiller


def trainer(*callbacks: Any, folder: Path | None = None, epochs: int = 2, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    quiet |= {"enable_model_summary": False, "accelerator": "cpu", "devices": 1, "max_epochs": epochs}
    return Trainer(callbacks=list(callbacks), default_root_dir=folder, **(quiet | options))


def fitted(
    module: Any, distiller: Distillation | None = None, *, data: Any = None, given: Any = None, **options: Any
) -> Any:
    """A module after a fit of a seeded run, with the callback where there is a distiller."""
    torch.manual_seed(5)
    callbacks = [] if distiller is None else [DistillationCallback(distiller, **({} if given is None else given))]
    trainer(*callbacks, **options).fit(module, loader() if data is None else data)
    return module
