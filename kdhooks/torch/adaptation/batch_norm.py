"""AdaBN: the statistics of BatchNorm are those of the target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kdhooks.errors import DataError, ModelError
from kdhooks.torch.adaptation.adapter import Adapter, DomainBatch, adapter
from kdhooks.torch.adaptation.features import wide
from kdhooks.torch.outputs import as_call, map_tensors, moved

_LABELS = ("labels", "target")


class _Statistics:
    """Mean and squared differences of all positions that one layer has seen, joined batch by batch.

    Attributes:
        own: the running mean and variance that the layer had.
        count: how many positions.
    """

    def __init__(self, layer: _BatchNorm) -> None:
        assert layer.running_mean is not None and layer.running_var is not None
        self.own = layer.running_mean, layer.running_var
        self.count = 0
        self.mean = torch.zeros_like(wide(layer.running_mean))
        self.squares = torch.zeros_like(self.mean)

    def take(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        """Join a batch [N, C, ...] by Chan, Golub & LeVeque's update, and let the layer normalise with it."""
        values = wide(args[0].detach()).movedim(1, -1).flatten(0, -2)
        count, mean = len(values), values.mean(0)
        squares = (values - mean).square().sum(0)
        total, shift = self.count + count, mean - self.mean
        self.mean += shift * (count / total)
        self.squares += squares + shift.square() * (self.count * count / total)
        self.count = total
        if count == 1 and total > 1:  # one value has no variance: what came before has
            mean, squares, count = self.mean, self.squares, total
        if total > 1:
            self.put(layer, mean, squares / count)

    def put(self, layer: nn.Module, mean: Tensor, variance: Tensor) -> None:
        """Tensors of the layer's own dtype in the place of its own ones, which stay as they are."""
        layer.running_mean, layer.running_var = mean.to(self.own[0].dtype), variance.to(self.own[1].dtype)

    def finish(self) -> None:
        """Write down what was found; the variance is unbiased, as BatchNorm keeps it."""
        self.own[0].copy_(self.mean)
        self.own[1].copy_(self.squares / max(1, self.count - 1))


def adapt_batch_norm(model: nn.Module, batches: Iterable[Any]) -> nn.Module:
    """Replace the running mean and variance of every BatchNorm by those of the target.

    Each layer normalises with the statistics of its batch while they are collected (a batch of one value with those
    so far), and gets mean and variance over all rows of all batches, which may have any sizes. Nothing else of the
    model changes: weights, modes, ``num_batches_tracked`` and what trains are as before. Li et al. 2016, "Revisiting
    Batch Normalization For Practical Domain Adaptation", algorithm 1, with the online update of its section 3.3.

    Args:
        model: with BatchNorm layers that keep statistics.
        batches: of the target domain: inputs, or as loaders serve them, (inputs, …) and mappings, whose
            ``labels`` or ``target`` are left out. Inputs are moved to the model's device.

    Returns:
        The model.

    Raises:
        ModelError: it has no such layer.
        DataError: there is no batch, or a layer saw one value only.

    Example:
        >>> import torch
        >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(1))
        >>> adapt_batch_norm(model, [torch.tensor([[1.0], [3.0]]), torch.tensor([[5.0]])])[0].running_mean
        tensor([3.])
    """
    layers = [part for part in model.modules() if isinstance(part, _BatchNorm) and part.running_mean is not None]
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no BatchNorm that keeps statistics, so AdaBN has nothing to adapt"
        )
    found = {layer: _Statistics(layer) for layer in layers}
    device = found[layers[0]].own[0].device
    with _collecting(model, found), torch.no_grad():
        for batch in batches:
            args, kwargs = as_call(map_tensors(moved(device, None), _inputs(batch)))
            model(*args, **kwargs)
    seen = [one for one in found.values() if one.count]
    if not seen:
        raise DataError("AdaBN needs at least one batch of the target, and got none")
    if min(one.count for one in seen) < 2:
        raise DataError("AdaBN needs more than one row of the target: a variance of one value is 0")
    for one in seen:
        one.finish()
    return model


def _inputs(batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return {name: value for name, value in batch.items() if name not in _LABELS}
    if isinstance(batch, (tuple, list)):
        if not batch:
            raise DataError("AdaBN needs batches with inputs, and got an empty one")
        return batch[0]
    return batch


@contextmanager
def _collecting(model: nn.Module, found: Mapping[_BatchNorm, _Statistics]) -> Iterator[None]:
    """Everything in eval mode; each BatchNorm normalises with its batch and keeps nothing."""
    modes = [(part, part.training) for part in model.modules()]
    handles = [layer.register_forward_pre_hook(one.take) for layer, one in found.items()]
    try:
        model.eval()
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer, one in found.items():
            layer.running_mean, layer.running_var = one.own
        for part, mode in modes:
            part.training = mode


@adapter("adabn")
class AdaBN(Adapter):
    """Adaptive batch normalisation: nothing is trained, the loss is 0; `adapt_batch_norm` does the work.

    Whoever evaluates or ends a run calls ``adapt_batch_norm(student, target_batches)``.
    """

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        return target.logits.new_zeros(())
