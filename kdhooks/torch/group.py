"""The group of processes as the core sees it: who this process is, and what rank 0 says."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from kdhooks.messages import environment_rank
from kdhooks.torch.ranks import Ranks


class Group:
    """The part of PyTorch's backend that is about other processes; see `kdhooks.backend.Backend`."""

    def rank(self) -> int:
        """The rank in the default process group, or what the launcher's environment says."""
        return dist.get_rank() if _is_there() else environment_rank()

    @contextmanager
    def together(self) -> Iterator[tuple[int, int]]:
        """Within the block the processes that a launcher started are one group: its rank and size."""
        started = int(os.environ.get("WORLD_SIZE", "1")) > 1
        ranks = Ranks.join(started or _is_there())
        try:
            yield ranks.rank, ranks.size
        finally:
            ranks.leave()

    def broadcast(self, value: Any) -> Any:
        """Rank 0's plain data on all ranks, as bytes of JSON."""
        if not _is_there() or dist.get_world_size() == 1:
            return value
        nccl = dist.get_backend() == "nccl"  # which moves nothing that is on the host
        device = torch.device("cuda", torch.cuda.current_device()) if nccl else torch.device("cpu")
        text = json.dumps(value).encode() if dist.get_rank() == 0 else b""
        size = torch.tensor(len(text), device=device)
        dist.broadcast(size, 0)
        content = torch.zeros(int(size), dtype=torch.uint8, device=device)
        if text:
            content.copy_(torch.frombuffer(bytearray(text), dtype=torch.uint8))
        dist.broadcast(content, 0)
        return json.loads(content.cpu().numpy().tobytes())


def _is_there() -> bool:
    return dist.is_available() and dist.is_initialized()
