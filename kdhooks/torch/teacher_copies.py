"""Copies of a teacher's weights as autocast, or another memory format, wants them; in place only while it runs.

Autocast casts the weights of a frozen model anew at every forward: for 110 million of them that is tens of
milliseconds. Here they are cast once. Rules: only weights that autocast would cast itself, on their way into a
linear layer, a convolution or an attention; never one that the student has too. Modules are not copied, so hooks
stay where they are; outside of a forward each module has its own parameters, the very objects. With `Folds` a
convolution's copies are those of itself and the normalisation behind it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kdhooks.torch.outputs import map_tensors
from kdhooks.torch.teacher_folding import Fold, Folds

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_NAMES: dict[type[nn.Module], tuple[str, ...]] = {
    **dict.fromkeys((nn.Linear, *_CONVOLUTIONS), ("weight", "bias")),
    # its bias_k and bias_v are concatenated to what is computed, which widens it: autocast casts neither
    nn.MultiheadAttention: ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias"),
}
_MAPS = (nn.Conv2d, nn.ConvTranspose2d)
_SHARDED = ("FullyShardedDataParallel", "DataParallel")

Place = tuple[dict[str, Any], str, Any, Any]
"""A module's parameters (or modules), the name of one, that one, and its copy (or what stands in for it)."""


def has_maps(model: nn.Module) -> bool:
    """Whether a model has convolutions over [N, C, H, W]."""
    return any(isinstance(module, _MAPS) for module in model.modules())


def sharded(model: nn.Module) -> bool:
    """Whether other processes or devices take part in a model's forward, or move its weights about."""
    if hasattr(model, "hf_device_map"):
        return True
    for module in model.modules():
        kinds = {base.__name__ for base in type(module).__mro__}
        if kinds.intersection(_SHARDED) or hasattr(module, "_get_fsdp_state") or hasattr(module, "_hf_hook"):
            return True
    return any(
        type(parameter) not in (nn.Parameter, Tensor) and not is_lazy(parameter) for parameter in model.parameters()
    )


class Copies:
    """Copies of a model's weights.

    Args:
        model: whose weights.
        dtype: what they are cast to, or None to leave them.
        channels_last: whether those of convolutions over maps, and the maps that go in, lie as [N, H, W, C].
        keep_off: the ids of parameters that are the student's too.
        folds: the normalisations that are folded, or None.

    Attributes:
        folds: these.
    """

    def __init__(
        self,
        model: nn.Module,
        dtype: torch.dtype | None,
        channels_last: bool,
        keep_off: frozenset[int],
        folds: Folds | None = None,
    ) -> None:
        self._model, self._dtype, self._keep_off = model, dtype, keep_off
        self.folds = folds
        self._folded: list[Fold] = []
        self._folded_places: list[Place] = []
        self._sources: list[int] = []
        self._channels_last = channels_last and has_maps(model)
        self._places: list[Place] = []
        self._originals: list[Tensor] = []
        self._copies: list[Tensor] = []
        self._ids: list[int] = []
        self._versions: list[int] = []
        self._stale = True

    def doubt(self) -> None:
        """Make the copies anew at the next forward: somebody may have written past the counters of writes."""
        self._stale = True
        if self.folds is not None:
            self.folds.doubt()

    def look(self, layers: Iterable[str]) -> None:
        """Fold nothing between whose ends somebody looks, at layers by their names."""
        if self.folds is not None and self.folds.look(layers):
            self._stale = True

    def unfold(self) -> None:
        """Fold nothing from now on."""
        self.folds, self._stale = None, True

    def inputs(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """The arguments of a forward with maps [N, C, H, W] in the memory format of the weights."""
        if not self._channels_last:
            return args, kwargs
        return map_tensors(_maps_last, args), map_tensors(_maps_last, kwargs)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within the block the modules have the copies."""
        self._refresh()
        try:
            for parameters, name, _, copy in self._places:
                parameters[name] = copy
            yield
        finally:
            for parameters, name, original, copy in self._places:
                if parameters.get(name) is copy:
                    parameters[name] = original

    def _refresh(self) -> None:
        replaced = [id(parameters.get(name)) for parameters, name, _, _ in self._places] != self._ids
        if self._stale or replaced or self._sources != _states(self._folded):
            self._make()
        elif (versions := [original._version for original in self._originals]) != self._versions:
            with torch.no_grad():
                torch._foreach_copy_(self._copies, self._originals)
            self._versions = versions

    def _make(self) -> None:
        made: dict[tuple[int, bool], tuple[Tensor, nn.Parameter]] = {}
        self._places = []
        self._fold()
        folded = {id(fold.convolution) for fold in self._folded}
        for module, name, original in self._wanted():
            if id(module) in folded:
                continue
            key = id(original), self._is_map(module, original)
            if key not in made:
                made[key] = original, self._copy(original, as_map=key[1])
            self._places.append((module._parameters, name, original, made[key][1]))
        self._originals = [original for original, _ in made.values()]
        self._copies = [copy for _, copy in made.values()]
        self._places += self._folded_places
        self._ids = [id(original) for _, _, original, _ in self._places]
        self._versions = [original._version for original in self._originals]
        self._stale = False

    def _fold(self) -> None:
        """What is folded now, and where it goes."""
        present = [] if self.folds is None else self.folds.present()
        self._folded = [fold for fold in present if _cast_by_autocast(fold.convolution)]
        self._sources = _states(self._folded)
        self._folded_places = []
        for fold in self._folded:
            last = self._channels_last and isinstance(fold.convolution, _MAPS)
            made = fold.made(self._dtype, torch.channels_last if last else torch.contiguous_format)
            own = fold.convolution._parameters
            self._folded_places += [
                (own, name, own[name], copy) for name, copy in zip(("weight", "bias"), made, strict=True)
            ]
            self._folded_places.append((fold.holder, fold.key, fold.normalisation, nn.Identity().eval()))

    def _wanted(self) -> Iterator[tuple[nn.Module, str, Tensor]]:
        for module in self._model.modules():
            for name in _cast_by_autocast(module):
                parameter = module._parameters.get(name)
                if parameter is None or id(parameter) in self._keep_off or not _plain(parameter):
                    continue
                if self._dtype is not None or self._is_map(module, parameter):
                    yield module, name, parameter

    def _is_map(self, module: nn.Module, parameter: Tensor) -> bool:
        return self._channels_last and isinstance(module, _MAPS) and parameter.ndim == 4

    def _copy(self, original: Tensor, *, as_map: bool) -> nn.Parameter:
        order = torch.channels_last if as_map else torch.preserve_format
        copy = original.detach().to(self._dtype or original.dtype, memory_format=order, copy=True)
        return nn.Parameter(copy, requires_grad=False)


def _cast_by_autocast(module: nn.Module) -> tuple[str, ...]:
    """The parameters of a module that go nowhere but into an operation whose arguments autocast casts."""
    kind = type(module)
    if kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils":
        return ("weight", "bias")
    for known, names in _NAMES.items():
        if isinstance(module, known):
            # a forward of somebody's own may compute with the weight before it goes in
            same = all(getattr(kind, name, None) is getattr(known, name, None) for name in ("forward", "_conv_forward"))
            return names if same and not {"forward", "_conv_forward"}.intersection(vars(module)) else ()
    return ()


def _states(folds: Iterable[Fold]) -> list[int]:
    """What changes when something is written to a source of what is folded, replaced, or put into train mode."""
    found = []
    for fold in folds:
        found.append(fold.normalisation.training)
        for one in fold.sources():
            found += [id(one), 0 if one.is_inference() else one._version]
    return found


def _plain(parameter: Tensor) -> bool:
    """A float32 tensor of the usual kind, that counts what is written to it."""
    return (
        type(parameter) in (nn.Parameter, Tensor)
        and parameter.dtype == torch.float32
        and parameter.layout == torch.strided
        and parameter.device.type != "meta"
        and not parameter.is_inference()
    )


def _maps_last(tensor: Tensor) -> Tensor:
    if tensor.ndim == 4 and tensor.is_floating_point():
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor
