"""Models, loops and processes for the tests of many devices; what runs in a process is a function of this package."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from kdhooks import Distillation
from tests.torch.hidden_models import Net, criterion
from tests.torch.small_models import batches, made
from tests.torch.test_ranks import free_port
from tests.torch.training_runs import process

Job = Callable[[int, Path], Any]


class Wide(nn.Module):
    """A teacher of four layers in a list, that counts which of them ran."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.first = nn.Linear(6, width)
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(3)])
        self.head = nn.Linear(width, 4)
        self._ran: list[int] = []  # a store knows a teacher by its attributes, but for such as these

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for index, layer in enumerate(self.layers):
            self._ran.append(index)
            x = layer(x).tanh()
        output: Tensor = self.head(x)
        return output


def student() -> Net:
    net: Net = made(1, Net)
    return net


def teacher() -> Wide:
    wide: Wide = made(2, Wide)
    return wide


def in_shards(model: nn.Module, mesh: Any = None) -> Any:
    """The block of a student, or the last two layers of a teacher, by themselves, then the rest."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),)) if mesh is None else mesh
    for module in [model.block] if isinstance(model, Net) else list(model.layers)[1:]:  # type: ignore[arg-type]
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def matching(**options: Any) -> Any:
    """Two pairs with matchers, and the student's own loss."""
    given = {"layer_mappings": [["first", "first"], ["block", "1", "layers.0", "0"]]}
    return criterion(**({"loss_weights": [1.0, 0.5], "feature_matchers": ["linear", "linear"]} | given | options))


def distiller_of(one: nn.Module, other: Any, conf: Any = None, *, criteria: Any = None) -> Distillation:
    distiller = Distillation(conf, student_model=one, teacher_model=other)
    if criteria is not False:
        distiller.criterion = matching() if criteria is None else criteria
    return distiller


def learn(
    distiller: Distillation,
    forward: Any,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int = 30,
    first: int = 0,
    ranks: tuple[int, int] = (0, 1),
    accumulate: int = 1,
    clip: float | None = None,
    scaler: Any = None,
    waiting: Callable[[bool], Any] = lambda last: nullcontext(),
    to_none: bool = True,
) -> list[float]:
    """A loop as people write it; the total loss of each optimizer step, a mean over its batches."""
    data, losses = batches(12), []
    parameters = list(distiller.student_model.parameters())
    for step in range(first, first + steps):
        optimizer.zero_grad(set_to_none=to_none)
        sums = 0.0
        for part in range(accumulate):
            x, y = (one[ranks[0] :: ranks[1]] for one in data[(step * accumulate + part) % len(data)])
            with waiting(part == accumulate - 1):
                output = forward(x)
                total = distiller.on_after_compute_loss(x, output, F.cross_entropy(output, y)) / accumulate
                (total if scaler is None else scaler.scale(total)).backward()
            sums += float(total.detach())
        if scaler is not None:
            scaler.unscale_(optimizer)
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        if scaler is None:
            optimizer.step()
        else:
            scaler.step(optimizer)
            scaler.update()
        losses.append(sums)
    return losses


def ours(distiller: Distillation) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in distiller.parameters()]


def whole(model: nn.Module) -> dict[str, Tensor]:
    """A model's state, put together from all ranks."""
    return {
        name: (value.full_tensor() if hasattr(value, "full_tensor") else value).detach().clone()
        for name, value in model.state_dict().items()
    }


def one_rank(job: Job, folder: Path, rank: int, size: int, port: int) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # torch's own, of gloo and of meshes
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    torch.manual_seed(rank)
    torch.save(job(rank, folder), folder / f"{job.__name__}{rank}.pt")
    dist.destroy_process_group()


def on_ranks(job: Job, folder: Path, size: int = 2) -> list[Any]:
    """What a function returned on each of several processes that are one group."""
    port = free_port()
    started = [process(one_rank, job, folder, rank, size, port) for rank in range(size)]
    for one in started:
        one.start()
    for one in started:
        one.join(150)
        if one.is_alive():
            one.kill()
    assert [one.exitcode for one in started] == [0] * size
    return [torch.load(folder / f"{job.__name__}{rank}.pt", weights_only=True) for rank in range(size)]


def said(function: Callable[[], Any]) -> str:
    """The text of the error that a function raises."""
    try:
        function()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
