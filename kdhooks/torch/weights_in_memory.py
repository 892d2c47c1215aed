"""A model's weights in memory: taken, put back, and in a clean copy. Of a sharded model every rank takes part."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from kdhooks.torch.sharding import data_mesh, gather_nothing, group_of, is_sharded, load_whole_state, whole_state
from kdhooks.torch.shards import whole_copy
from kdhooks.torch.taps import drop_dead_hooks


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside `torch.compile`, DataParallel, DDP and the like."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if hasattr(model, "_orig_mod"):
            model = cast(nn.Module, model._orig_mod)
        elif isinstance(model, wrappers):
            model = model.module
        else:
            return model


class WeightsInMemory:
    """The part of PyTorch's backend that is about weights; see `kdhooks.backend.Backend`."""

    def snapshot(self, model: nn.Module) -> dict[str, Any]:
        """A true copy of the weights, whole and on the CPU, under the names of the user's own module."""
        own = unwrap(model)
        if is_sharded(own):
            return whole_state(own)
        return {
            name: value.detach().to("cpu", copy=True) if isinstance(value, Tensor) else copy.deepcopy(value)
            for name, value in own.state_dict().items()
        }

    def restore(self, model: nn.Module, weights: Mapping[str, Any]) -> None:
        """Put a snapshot's weights into a model."""
        load_whole_state(unwrap(model), weights)

    def clean_copy(self, model: nn.Module, weights: Mapping[str, Any]) -> nn.Module:
        """A deep copy of the user's own module with these weights and without gradients; of a sharded one, whole."""
        own = unwrap(model)
        if is_sharded(own):
            return whole_copy(own, weights)
        twin = copy.deepcopy(own)
        drop_dead_hooks(*twin.modules())
        twin.zero_grad(set_to_none=True)
        twin.load_state_dict(weights)
        return twin

    def score_of_all(self, model: nn.Module, score: float) -> float:
        """The score of the first rank, where the model is sharded: its best weights are put together by all ranks."""
        own = unwrap(model)
        mesh = data_mesh(own)
        group = group_of(mesh)
        if group is None:
            return score
        gather_nothing(own)
        device = "cpu" if mesh.device_type == "cpu" else f"{mesh.device_type}:{torch.cuda.current_device()}"
        said = torch.tensor(score, dtype=torch.float64, device=device)
        dist.broadcast(said, dist.get_global_rank(group, 0), group=group)
        return float(said)
