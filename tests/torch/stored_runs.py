"""Short trainings under a teacher whose outputs may be stored, for the tests of the store in the hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks import Distillation
from tests.torch.small_models import made

ROWS, CLASSES = 24, 7
IMAGES = torch.randn(ROWS, 2, 6, 6, generator=torch.Generator().manual_seed(5))
LABELS = torch.randint(CLASSES, (ROWS,), generator=torch.Generator().manual_seed(6))
LOGITS = {"KnowledgeDistillationLoss": {"temperature": 2.0, "loss_types": ["CE", "KL"], "loss_weights": [0.3, 0.7]}}
LAYERS = {
    "IntermediateLayersKnowledgeDistillationLoss": {
        "layer_mappings": [["stem", "stem"], ["twice", "0", "twice", "1"], ["twice", "1", "twice", "0"]],
        "loss_types": ["MSE", "L1", "MSE"],
        "add_origin_loss": True,
    }
}


class Twice(nn.Module):
    """Calls its layer twice and returns both results."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        once = self.layer(x).tanh()
        return self.layer(once), once


class Net(nn.Module):
    """Images to logits through a layer that returns two maps."""

    def __init__(self, width: int = 4, classes: int = CLASSES) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.twice = Twice(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.twice(self.norm(self.stem(x)).relu())[0].mean((2, 3)))
        return output


def student() -> Net:
    return made(1, Net)


def teacher(seed: int = 2) -> Net:
    return made(seed, lambda: Net(6)).eval()


@dataclass
class Ran:
    """What a run left.

    Attributes:
        weights: of the student, as one vector.
        forwards: how many rows each forward of the teacher had.
        losses: the components at each step.
        distiller: what ran.
    """

    weights: Tensor
    forwards: list[int]
    losses: list[dict[str, float]]
    distiller: Distillation = field(repr=False)


Batches = Iterable[tuple[Any, Tensor, Mapping[str, Any]]]
"""Input, labels, and what else `on_after_compute_loss` is handed."""


def shuffled(epoch: int, size: int = 8, rows: int = ROWS) -> Batches:
    """An epoch in an order of its own."""
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(epoch))
    return [(IMAGES[some], LABELS[some], {}) for some in order.split(size)]


def configured(store: Path | None, criterion: Mapping[str, Any] = LOGITS, **options: Any) -> dict[str, Any]:
    """A configuration, with a store where there is one; ``teacher`` is its section."""
    settings: dict[str, Any] = {"train": {"criterion": criterion}}
    if "teacher" in options:
        settings["teacher"] = options.pop("teacher")
    if store is not None:
        settings["cache"] = {"path": str(store), **options}
    return {"distillation": settings}


def run(
    conf: Mapping[str, Any],
    *,
    epochs: int = 2,
    batches: Callable[[int], Batches] = shuffled,
    models: tuple[nn.Module, Any] | None = None,
    optimizer: Callable[[Iterable[Tensor]], torch.optim.Optimizer] = lambda some: torch.optim.SGD(some, lr=0.1),
    each: Callable[[Distillation, int], object] | None = None,
) -> Ran:
    """Train as a user's loop does; `each` is called before every epoch."""
    learner, taught = models or (student(), teacher())
    forwards: list[int] = []
    handles = [watched(one, forwards) for one in _each(taught)]
    distiller = Distillation(conf, student_model=learner, teacher_model=taught)
    steps = optimizer(learner.parameters())
    losses = []
    with distiller:
        for epoch in range(epochs):
            if each is not None:
                each(distiller, epoch)
            distiller.on_epoch_begin(epoch)
            for value, target, more in batches(epoch):
                output = learner(**value) if isinstance(value, Mapping) else learner(value)
                logits = output if isinstance(output, Tensor) else output.logits
                own = F.cross_entropy(logits.flatten(0, -2), target.flatten())
                loss = distiller.on_after_compute_loss(value, output, own, target=target, **more)
                steps.zero_grad()
                loss.backward()
                steps.step()
                losses.append(distiller.losses)
            distiller.on_epoch_end()
    for handle in handles:
        handle.remove()
    weights = torch.cat([weight.detach().flatten() for weight in learner.parameters()])
    return Ran(weights, forwards, losses, distiller)


class Watch:
    """Notes how many rows a forward has; the same for every model, so that it doesn't change what a teacher is."""

    def __init__(self, forwards: list[int]) -> None:
        self._note = forwards.append  # a list would be an option of the model, and another one at every forward

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        value = args[0] if args else next(iter(kwargs.values()))
        self._note(len(value))


def watched(model: nn.Module, forwards: list[int]) -> Any:
    return model.register_forward_pre_hook(Watch(forwards), with_kwargs=True)


def _each(taught: Any) -> Sequence[nn.Module]:
    if isinstance(taught, nn.Module):
        return [taught]
    return list(taught.values()) if isinstance(taught, Mapping) else list(taught)
