"""A small language model that distils in two processes, every byte that it allocates and exchanges counted."""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from kdhooks import Distillation
from kdhooks.scaling import Model
from tests.torch.small_models import kd_conf

VOCABULARY, ROWS, LENGTH = 512, 4, 64


class Block(nn.Module):
    """A block of a decoder with four heads."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        parts = self.attend(self.first(x)).split(width, -1)
        query, key, value = (one.view(rows, length, 4, -1).transpose(1, 2) for one in parts)
        seen = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).reshape(rows, length, width))
        return x + self.down(F.gelu(self.up(self.second(x))))


class Language(nn.Module):
    """Tokens [N, T] to logits [N, T, VOCABULARY]."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.checkpointing = False
        self.embedding, self.last = nn.Embedding(VOCABULARY, width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(layers))
        self.head = nn.Linear(width, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False) if self.checkpointing and self.training else block(x)
        return self.head(self.last(x))  # type: ignore[no-any-return]


STUDENT, TEACHER = (128, 3), (192, 4)
CASES = ("ddp", "ddp views", "fsdp", "fsdp replicated", "alone student", "alone checkpointed", "alone mixed")


def sizes(width: int, layers: int) -> Model:
    """What `estimate` is told of a `Language`."""
    count = sum(one.numel() for one in Language(width, layers).parameters())
    return Model(count, layers, width, VOCABULARY, outside=2 * VOCABULARY * width + 2 * width)


def sharded(model: Any, **options: Any) -> Any:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for block in model.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh, **options)


class Settled(TorchDispatchMode):
    """Every collective has ended, and its thread has let go of it, before this thread goes on.

    The profiler sees what its own thread allocates and frees. Whichever of two threads lets go of a tensor last frees
    it: were that the collective's, the tensor would seem to stay.
    """

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.namespace == "c10d":
            (found[-1] if isinstance(found, (list, tuple)) else found).wait()
            time.sleep(0.03)
        return found


class Sent(TorchDispatchMode):
    """Counts the bytes that collectives carry, as a ring of these ranks sends them."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name, ranks = func._schema.name.split("::")[1], dist.get_world_size()
            tensors = args[0] if isinstance(args[0], (list, tuple)) else [args[0]]
            if "reduce_scatter" in name:
                tensors = args[1] if isinstance(args[1], (list, tuple)) else [args[1]]
            size = sum(one.numel() * one.element_size() for one in tensors)
            times = {"allreduce_": 2, "_allgather_base_": 1, "_reduce_scatter_base_": 1}
            if name in times and size > 1024:  # small ones are counts and flags
                self.bytes[name] += times[name] * size * (ranks - 1) // ranks
        return func(*args, **(kwargs or {}))


def allocated(function: Callable[[], Any]) -> tuple[Any, int, int]:
    """What a function returns, the bytes that it leaves allocated, and the most on the way, all of C++ too."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found, Settled():
        result = function()
        gc.collect()
    assert found.profiler is not None and found.profiler.kineto_results is not None
    events = [one for one in found.profiler.kineto_results.events() if one.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda one: one.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return result, live, most


def measured(case: str) -> dict[str, Any]:
    """Bytes that a rank keeps, allocates at most in a step, and sends in it."""

    gc.collect()  # what an earlier case has left would be freed in this one

    def begin() -> Any:
        torch.manual_seed(1)
        student: Any = Language(*STUDENT)
        teacher: Any = None if case == "alone student" else Language(*TEACHER)
        student.checkpointing = "checkpointed" in case
        if case.startswith("fsdp"):
            sharded(student)
            teacher = teacher if "replicated" in case else sharded(teacher, reshard_after_forward=True)
        elif case.startswith("ddp"):
            student = DistributedDataParallel(student, gradient_as_bucket_view="views" in case)
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
        conf = kd_conf([1.0, 0.0]) if teacher is None else kd_conf([0.5, 0.5])
        distiller = Distillation(conf, student_model=student, teacher_model=teacher)
        distiller.on_train_begin(optimizer=optimizer)
        step(student, optimizer, distiller)
        step(student, optimizer, distiller)
        return student, optimizer, distiller

    def step(student: Any, optimizer: Any, distiller: Distillation) -> None:
        tokens = torch.randint(VOCABULARY, (ROWS, LENGTH))
        with torch.autocast("cpu", torch.bfloat16, enabled="mixed" in case):
            output = student(tokens)
            loss = F.cross_entropy(output.flatten(0, 1), tokens.flatten())
            loss = distiller.on_after_compute_loss(tokens, output, loss)
        loss.backward()
        optimizer.step()  # gradients stay, as they do under accumulation

    parts, kept, _ = allocated(begin)
    _, more, most = allocated(lambda: step(*parts))
    with Sent() as sent:
        step(*parts)
    parts[2].on_train_end()
    return {"kept": kept + more, "peak": kept + most, "sent": dict(sent.bytes)}


def one_of_two(folder: Path, rank: int, port: int) -> None:
    """Measure all cases in one of two processes."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo")
    found = {case: measured(case) for case in CASES if not case.startswith("alone")}
    dist.destroy_process_group()
    if rank == 0:
        dist.init_process_group("gloo", init_method=f"file://{folder}/alone", rank=0, world_size=1)
        found |= {case: measured(case) for case in CASES if case.startswith("alone")}
        dist.destroy_process_group()
    torch.save(found, folder / f"{rank}.pt")
