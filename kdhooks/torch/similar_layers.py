"""The similarity of some layers of two models within bounds, in PyTorch; see `kdhooks.compared.similar_layers`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.compared import similar_layers
from kdhooks.torch.outputs import as_call, map_tensors, moved
from kdhooks.torch.similarity import MinibatchCKA, centered_gram, features
from kdhooks.torch.teacher_taps import TeacherTaps
from kdhooks.torch.wrappers import named_layers


def bounded_similarity(
    student: nn.Module,
    teacher: nn.Module,
    inputs: Iterable[Any],
    *,
    rows: int,
    layers: int,
    names: tuple[Sequence[str], Sequence[str]] | None,
    over: Callable[[], bool],
) -> tuple[list[str], list[str], list[list[float]]]:
    """The linear CKA of layers of both models, which are in evaluation mode; no gradient is computed."""

    def make(which: int, first: Any, chosen: Sequence[str] | None) -> _Side:
        return _Side((student, teacher)[which], ("student", "teacher")[which], first, layers, chosen)

    return similar_layers.bounded_similarity(inputs, MinibatchCKA(), make, rows=rows, names=names, over=over)


class _Side(similar_layers.Side):
    def __init__(self, model: nn.Module, role: str, first: Any, most: int, names: Sequence[str] | None) -> None:
        self._model = model
        place = next(iter(model.parameters()), None)
        self._move = moved(place.device, None) if place is not None else None
        super().__init__(TeacherTaps(model, role), first, most, names)

    def _names(self) -> Iterable[str]:
        return list(named_layers(self._model))

    def _run(self, given: Any) -> None:
        args, kwargs = as_call(given if self._move is None else map_tensors(self._move, given))
        self._taps.run(None, *args, **kwargs)

    def _features(self, value: Any, rows: int) -> Iterator[tuple[str, Tensor]]:
        return features(value, rows)

    def _gram(self, feature: Tensor) -> Tensor:
        return centered_gram(feature)

    def _flat(self, feature: Tensor) -> Any:
        return feature.flatten().double().cpu().numpy() if torch.isfinite(feature).all() else None

    def _row_bytes(self, feature: Tensor) -> int:
        return feature[0].numel() * feature.element_size()
