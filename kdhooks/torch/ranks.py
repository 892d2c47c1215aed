"""The processes that train one student together, for ``dataloader.distributed: true`` or a ``strategy``.

Rules: a single process is a group of one and never touches `torch.distributed`. Every rank takes each decision
(to stop, to write, that a loss went bad) at the same step, or the others would wait for it forever. Tensors are
exchanged, never pickled objects.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

from kdhooks.messages import logger
from kdhooks.torch.sharding import broadcast_buffers, is_sharded, sharded_modules
from kdhooks.torch.together import check_alike

_STORES: dict[tuple[str, ...], Any] = {}
"""Where processes find each other, by the place that a launcher has named; kept for as long as the process lives."""
_GROUPS = itertools.count()


class Ranks:
    """The group of processes; made by `Ranks.join`.

    Attributes:
        rank: of this process.
        size: how many processes there are.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, owned: bool = False, strategy: str = "auto") -> None:
        self.rank, self.size, self._owned, self.strategy = rank, size, owned, strategy
        # decisions travel over gloo, so that they never wait for the accelerator
        self._group = dist.new_group(backend="gloo") if size > 1 else None
        self._sent: tuple[Any, Tensor] | None = None
        self._wrapped: DistributedDataParallel | None = None
        self._sharded: Any = None

    @classmethod
    def join(cls, wanted: bool, strategy: str = "auto") -> Ranks:
        """The group that the launcher or the user made; one of its own where there is none or none is wanted.

        Args:
            wanted: whether other processes shall take part, where there are some.
            strategy: ``distillation.train.strategy``.
        """
        if not wanted or not dist.is_available():
            return cls()
        owned = not dist.is_initialized()
        if owned and int(os.environ.get("WORLD_SIZE", "1")) == 1:
            asked = "dataloader.distributed" if strategy == "auto" else f"strategy: {strategy}"
            logger.info("%s: one process is running; torchrun starts several", asked)
            return cls()
        if owned:
            _start("nccl" if torch.cuda.is_available() else "gloo")
        return cls(dist.get_rank(), dist.get_world_size(), owned=owned, strategy=strategy)

    def leave(self) -> None:
        """End what `join` has made."""
        self._sent = self._wrapped = self._sharded = None
        if self._owned:
            dist.destroy_process_group()
            self._owned = False
        elif self._group is not None:  # a search leaves once for every stage of every candidate
            dist.destroy_process_group(self._group)
        self._group = None

    @property
    def shards(self) -> bool:
        """Whether the student's weights shall be shared out over several processes."""
        return self.size > 1 and self.strategy == "fsdp2"

    def compare(self, distiller: Any) -> None:
        """UsageError on all ranks where one has another configuration; it would wait for the others for ever."""
        if self.size > 1:
            check_alike(distiller, self._group, "cpu", seed=True)

    def wrap(self, student: nn.Module, device: torch.device) -> nn.Module:
        """The student as the loop calls it: itself where it is alone or in shards, or in `DistributedDataParallel`."""
        if is_sharded(student):
            self._sharded = student
            return student
        if self.size == 1:
            return student
        self._wrapped = DistributedDataParallel(student, device_ids=[device] if device.type == "cuda" else None)
        return self._wrapped

    def synchronised(self, last: bool) -> AbstractContextManager[Any]:
        """Gradients are exchanged at the last backward of an optimizer step only."""
        if self._sharded is not None:
            return _exchanging(self._sharded, last)
        if last or self._wrapped is None:
            return nullcontext()
        no_sync: AbstractContextManager[Any] = self._wrapped.no_sync()
        return no_sync

    def share_buffers(self, student: nn.Module) -> None:
        """Give every rank the buffers of rank 0, before they are evaluated or saved."""
        if self.size > 1:
            broadcast_buffers(student)

    def agree_to_stop(self, asked: bool) -> bool:
        """Whether some rank was asked to stop; among several the answer is the last step's, so nobody waits."""
        if self.size == 1:
            return asked
        before = self._sent
        flag = torch.tensor(int(asked))
        self._sent = dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group, async_op=True), flag
        if before is None:
            return False
        before[0].wait()
        return bool(before[1])

    def first_bad(self, mine: tuple[int, str] | None) -> tuple[int, str] | None:
        """The first bad step of all ranks; a rank that saw none calls its component ``total``."""
        if self.size == 1:
            return mine
        steps = torch.tensor(torch.iinfo(torch.int64).max if mine is None else mine[0])
        dist.all_reduce(steps, dist.ReduceOp.MIN, group=self._group)
        first = int(steps)
        if first == torch.iinfo(torch.int64).max:
            return None
        return mine if mine is not None and mine[0] == first else (first, "total")

    def any(self, mine: bool) -> bool:
        """Whether it is so on some rank."""
        if self.size == 1:
            return mine
        flag = torch.tensor(int(mine))
        dist.all_reduce(flag, dist.ReduceOp.MAX, group=self._group)
        return bool(flag)

    def gather(self, mine: Mapping[str, Any]) -> Sequence[Any]:
        """What every rank has, in their order; plain data and tensors of the CPU."""
        if self.size == 1:
            return [mine]
        file = io.BytesIO()
        torch.save(dict(mine), file)
        content = torch.frombuffer(file.getbuffer(), dtype=torch.uint8)
        sizes = [torch.zeros((), dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor(len(content)), group=self._group)
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(content)] = content
        received = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(received, padded, group=self._group)
        return [
            torch.load(io.BytesIO(one[: int(size)].numpy().tobytes()), weights_only=True)
            for one, size in zip(received, sizes, strict=True)
        ]

    def wait(self) -> None:
        """Until every rank is here."""
        if self.size > 1:
            dist.barrier(group=self._group)


def _start(backend: str) -> None:
    """A process group of the processes of a launcher, as often as it starts them again and they train.

    torchrun keeps its store from one start to the next: a rank that is quicker than another would read the address that
    the other had before. So each start, and each group of one, has keys of its own. The store stays open: a rank that
    is ready for its next group would otherwise meet the store that a slower rank is about to close.
    """
    place = tuple(os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE"))
    if place not in _STORES:
        _STORES[place] = next(rendezvous("env://"))
    store, rank, size = _STORES[place]
    stores: Any = dist  # torch says nothing about this class's type
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    keys = f"kdhooks start {attempt}, group {next(_GROUPS)}"
    dist.init_process_group(backend, store=stores.PrefixStore(keys, store), rank=rank, world_size=size)


@contextmanager
def _exchanging(student: nn.Module, last: bool) -> Iterator[None]:
    """Within the block a sharded student exchanges gradients, or keeps them until the last backward."""
    if last:
        yield
        return
    modules = sharded_modules(student)
    for module in modules:
        module.set_requires_gradient_sync(False, recurse=False)
    try:
        yield
    finally:
        for module in modules:
            module.set_requires_gradient_sync(True, recurse=False)
