"""DELTA: features stay near those of the model that the student began as.

Li et al. 2019, "DELTA: deep learning transfer using feature map with attention for convolutional networks",
equations 3 to 5: ``sum over layers and channels j of W_j ||FM_j(w) - FM_j(w0)||²``, where W is the softmax over a
layer's channels of how much the loss grows without each of them. Here the square is a mean over positions, as in the
authors' program, so that weights mean the same for maps of any size, and a mean over the batch.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.config.finetune_settings import Scheduled
from kdhooks.criterion import Step
from kdhooks.errors import CheckpointError, ModelError, UsageError
from kdhooks.pairs.bound import Bound
from kdhooks.torch.outputs import as_call
from kdhooks.torch.taps import drop_dead_hooks
from kdhooks.torch.transfer.starting_point import StartingPointCriterion
from kdhooks.torch.wrappers import find_layer, inside


def feature_distance(student: Tensor, start: Tensor, channel_weights: Tensor | None = None) -> Tensor:
    """The weighted squared distance of two feature maps, a scalar.

    ``1/N sum over n, j of W_j mean over positions of (student_nj - start_nj)²``.

    Args:
        student: [N, C], [N, C, H, W] or tokens [N, T, C].
        start: of the same shape.
        channel_weights: W, [C]; None is 1 / C for all.

    Raises:
        ModelError: the shapes differ, or there are not C weights.
    """
    if student.shape != start.shape:
        raise ModelError(f"features of {list(student.shape)} and {list(start.shape)} can't be compared")
    wide = torch.promote_types(student.dtype, torch.float32)
    squares = (student.to(wide) - start.to(wide)).square()
    channels = squares.movedim(-1 if squares.ndim == 3 else 1, -1).flatten(0, -2).mean(0)  # N and positions
    if channel_weights is None:
        return channels.mean()
    if channel_weights.shape != channels.shape:
        raise ModelError(f"there are {channel_weights.numel()} channel_weights and {channels.numel()} channels")
    return (channels * channel_weights.to(channels)).sum()


class DELTA(StartingPointCriterion):
    """Features stay near those of the model that the student began as (Li et al. 2019, equations 3 to 5).

    A frozen copy of the student, made when a run begins, sees every batch as well: the price is its forward.

    Args:
        layers: whose outputs are compared.
        weight: alpha, a number or a schedule.
        new_weight: beta, of half the squared norm of what was not transferred.
        channel_weights: by layer, one number a channel; see `channel_weights`.
        transferred: names of the student's parameters that come from the source; None means all.

    Its components are ``DELTA`` and ``DELTA.new``, both unweighted.

    Raises:
        UsageError: there are no layers.
        LayerError: at the begin of a run: the student has no such layer.
    """

    name = "DELTA"

    def __init__(
        self,
        layers: Sequence[str],
        weight: Scheduled = 0.01,
        new_weight: Scheduled = 0.01,
        *,
        channel_weights: Mapping[str, Sequence[float]] | None = None,
        transferred: Collection[str] | None = None,
    ) -> None:
        super().__init__(weight, new_weight, transferred)
        if not layers:
            raise UsageError("DELTA compares features, and no layers are named")
        unknown = set(channel_weights or {}) - set(layers)
        if unknown:
            raise UsageError(f"channel_weights names the layer {sorted(unknown)[0]!r}, which is not among layers")
        self.layers = tuple(layers)
        given = (channel_weights or {}).items()
        self._weights = {layer: torch.tensor(one, dtype=torch.float64) for layer, one in given}
        self._taps: Any = None
        self._start: nn.Module | None = None
        self._features: dict[str, Any] = {}

    def bind(self, bound: Bound) -> None:
        """Take the student of a run."""
        super().bind(bound)
        self._taps = bound.student

    def on_train_begin(self) -> None:
        """Copy the student as it begins, and tap the layers of both."""
        student = self._student()
        self._start = copy.deepcopy(inside(student))
        drop_dead_hooks(*self._start.modules())
        self._start.zero_grad(set_to_none=True)
        self._start.eval().requires_grad_(False)
        self._taps.attach([(self._taps.find(layer), False) for layer in self.layers])
        for layer in self.layers:
            find_layer(self._start, layer, "student")[1].register_forward_hook(self._keeping(layer))

    def on_after_compute_loss(self) -> None:
        """Let go of the step's features."""
        self._features = {}
        self._taps.release()

    def on_train_end(self) -> None:
        """Take everything off the student; the copy stays for `state_dict`."""
        self._taps.detach()
        self._model = None

    def value(self, step: Step) -> Tensor:
        """The distance between the features of both, summed over layers."""
        args, kwargs = as_call(step.input)
        device = next(self._student().parameters()).device
        with torch.no_grad():
            self._begun().to(device)(*args, **kwargs)
        distances = [self._distance(layer) for layer in self.layers]
        return torch.stack([one.to(distances[0]) for one in distances]).sum()

    def _begun(self) -> nn.Module:
        if self._start is None:
            raise UsageError("DELTA has no starting point yet: it is computed in a run, after on_train_begin()")
        return self._start

    def _distance(self, layer: str) -> Tensor:
        calls = self._taps.slots[self._taps.find(layer), False].read()
        if not calls or layer not in self._features:
            raise UsageError(
                f"DELTA: layer {layer!r} gave nothing since the last loss: run the student before "
                "on_after_compute_loss, with gradients on"
            )
        student, start = _tensor(calls[-1], layer), _tensor(self._features[layer], layer)
        return feature_distance(student, start, self._weights.get(layer))

    def _keeping(self, layer: str) -> Callable[..., None]:
        def keep(module: nn.Module, args: Any, output: Any) -> None:
            self._features[layer] = output

        return keep

    def state_dict(self) -> dict[str, Any]:
        """The model that the student began as."""
        return {**super().state_dict(), "start": {} if self._start is None else dict(self._start.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved run's starting point; CheckpointError where it is of another student."""
        super().load_state_dict(state)
        try:
            self._begun().load_state_dict(state["start"])
        except (RuntimeError, KeyError):
            raise CheckpointError("the state holds the starting point of another student") from None


def _tensor(value: Any, layer: str) -> Tensor:
    """The layer's output, or the first tensor in it."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else (value,)
    for item in items:
        if isinstance(item, Tensor):
            return item
    raise ModelError(f"DELTA: layer {layer!r} returns no tensor")


@torch.no_grad()
def channel_weights(
    model: nn.Module, layer: str, batches: Iterable[tuple[Any, Tensor]], loss: Callable[[Any, Tensor], Tensor]
) -> list[float]:
    """How much each channel of a layer matters: the softmax of how much the loss grows without it.

    Li et al. 2019, equation 5; a forward for each channel and batch. The model is left as it is.

    Args:
        model: with a head that has learned the labels.
        layer: its output is [N, C, ...], or tokens [N, T, C].
        batches: inputs and labels.
        loss: (output, labels) -> scalar.

    Returns:
        One number a channel; they sum to 1. For ``finetune.delta.channel_weights``.
    """
    module = find_layer(model, layer, "student")[1]
    modes = [(one, one.training) for one in model.modules()]
    model.eval()
    grown: list[Tensor] = []
    try:
        for given, labels in batches:
            args, kwargs = as_call(given)
            with _without(module, None) as seen:
                whole = loss(model(*args, **kwargs), labels)
            losses = []
            for channel in range(seen[0]):
                with _without(module, channel):
                    losses.append(loss(model(*args, **kwargs), labels))
            grown.append(torch.stack(losses) - whole)
    finally:
        for one, mode in modes:
            one.training = mode
    return [float(one) for one in torch.stack(grown).double().mean(0).softmax(0)]


class _without:
    """A layer whose output lacks a channel; None only counts its channels."""

    def __init__(self, module: nn.Module, channel: int | None) -> None:
        self.module, self.channel, self.seen = module, channel, [0]

    def __enter__(self) -> list[int]:
        self.handle = self.module.register_forward_hook(self._cut)
        return self.seen

    def _cut(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        axis = -1 if output.ndim == 3 else 1
        self.seen[0] = output.shape[axis]
        if self.channel is None:
            return output
        output = output.clone()
        output.select(axis, self.channel).zero_()
        return output

    def __exit__(self, *_: Any) -> None:
        self.handle.remove()
