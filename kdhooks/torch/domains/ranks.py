"""Batches of all ranks that train together, so that what is compared is the whole batch.

Every rank then computes the same loss of the same features, and its gradient reaches the rank that a row came from;
with the mean over ranks that data-parallel training takes, it is the gradient of one process with all rows. Ranks
must have equally many rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdhooks.torch.domains.both import Domain
from kdhooks.torch.rank_groups import process_group
from kdhooks.torch.wrappers import living


class Together:
    """The ranks that train a student together, found when they are first asked for.

    Args:
        student: the user's own model, which DistributedDataParallel may stand around by then.
    """

    def __init__(self, student: nn.Module) -> None:
        self._student, self._found, self._group = student, False, None

    def __call__(self) -> Any:
        """Their process group, or None."""
        if not self._found:
            self._found = True
            if dist.is_available() and dist.is_initialized():
                self._group = process_group(self._student, living(DistributedDataParallel))
        return self._group


def gathered(domain: Domain, group: Any) -> Domain:
    """The same of all ranks, in their order."""

    def whole(value: Any) -> Any:
        return together(value, group) if isinstance(value, Tensor) else value

    return replace(
        domain,
        features={tap: whole(value) for tap, value in domain.features.items()},
        arguments={tap: tuple(map(whole, value)) for tap, value in domain.arguments.items()},
        logits=whole(domain.logits),
        labels=whole(domain.labels),
    )


class _AllRows(torch.autograd.Function):
    """All ranks' rows; backward is the sum of all ranks' gradients for the own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: Any) -> Tensor:
        ctx.group, ctx.count = group, len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, rows, group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed, group=ctx.group)
        first = dist.get_rank(ctx.group) * ctx.count
        return summed[first : first + ctx.count], None


def together(rows: Tensor, group: Any) -> Tensor:
    """The rows [N, ...] of all ranks as [N * ranks, ...]."""
    made: Tensor = _AllRows.apply(rows.contiguous(), group)  # type: ignore[no-untyped-call]
    return made
