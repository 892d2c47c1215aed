"""How alike layers of two models are: linear CKA over minibatches.

Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited", with the unbiased estimate of HSIC of
Song et al. 2012 averaged over minibatches as in Nguyen et al. 2021, "Do Wide and Deep Networks Learn the Same
Things?": its expectation doesn't depend on the size of a batch. Features are flattened to one row a sample.

Rule: of a batch only the matrices [N, N] are kept, never features; all is computed in float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdhooks.check import LayerSimilarity, SeenLayer
from kdhooks.errors import ModelError, UsageError
from kdhooks.torch.matchers import MatcherError, build_matcher
from kdhooks.torch.outputs import as_call, map_tensors, moved
from kdhooks.torch.teacher_taps import TeacherTaps
from kdhooks.torch.wrappers import named_layers

FEWEST_ROWS = 4
"""The unbiased estimate needs as many samples in a batch."""


def centered_gram(feature: Tensor) -> Tensor:
    """The inner products of samples, U-centred: rows and columns sum to 0 and the diagonal is 0.

    Args:
        feature: [N, ...], N at least 4.

    Returns:
        [N, N] in float64.
    """
    rows = feature.detach().flatten(1).double()
    rows = rows - rows.mean(0)  # changes nothing but rounding
    gram, n = rows @ rows.T, len(rows)
    gram.fill_diagonal_(0)
    sums = gram.sum(0) / (n - 2)
    gram = gram - sums[:, None] - sums[None, :] + sums.sum() / (n - 1)
    return gram.fill_diagonal_(0)


def unbiased_hsic(one: Tensor, other: Tensor) -> Tensor:
    """HSIC_1 of two U-centred matrices, equation 5 of Song et al. 2012: <K, L> / (N (N - 3))."""
    n = len(one)
    return (one * other).sum() / (n * (n - 3))


def linear_cka(one: Tensor, other: Tensor) -> float:
    """The similarity of two features of the same samples, with the unbiased HSIC.

    Args:
        one: [N, ...].
        other: [N, ...], of any other width.

    Returns:
        1 where one is a rotated, shifted and scaled copy of the other, about 0 for features that have nothing in
        common, and 0 where one is constant.

    Example:
        >>> feature = torch.randn(16, 5, generator=torch.Generator().manual_seed(0))
        >>> round(linear_cka(feature, 3 * feature + 1), 6)
        1.0
    """
    cka = MinibatchCKA()
    cka.add([one], [other])
    return float(cka.values()[0, 0])


class MinibatchCKA:
    """The linear CKA of every layer on one side with every layer on the other, gathered batch by batch.

    ``mean HSIC_1(K, L) / sqrt(mean HSIC_1(K, K) * mean HSIC_1(L, L))``, equation 2 of Nguyen et al. 2021.
    """

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> None:
        """One more batch: the features [N, ...] of both sides, in the same order every time.

        Raises:
            UsageError: fewer than 4 samples, or features of different batches.
        """
        self.add_grams(
            [centered_gram(_checked(one)) for one in rows], [centered_gram(_checked(one)) for one in columns]
        )

    def add_grams(self, rows: Sequence[Tensor], columns: Sequence[Tensor]) -> None:
        """One more batch as the matrices of `centered_gram`."""
        if len({len(gram) for gram in (*rows, *columns)}) > 1:
            raise UsageError("features of batches of different sizes can't be compared")
        n = len(rows[0])
        left, right = (
            torch.stack([gram.flatten().cpu() for gram in side]) / (n * (n - 3)) ** 0.5 for side in (rows, columns)
        )
        found = [left @ right.T, left.square().sum(1), right.square().sum(1)]
        self._sums = [one + other for one, other in zip(self._sums, found, strict=True)] if self._sums else found

    def values(self) -> Any:
        """[rows, columns] as a NumPy array; 0 where a side is constant.

        Raises:
            UsageError: there was no batch.
        """
        if not self._sums:
            raise UsageError("there was no batch to compare features on")
        cross, left, right = self._sums
        scale = (left[:, None] * right[None, :]).sqrt()
        return torch.where(scale > 0, cross / scale.clamp(min=torch.finfo(scale.dtype).tiny), 0.0).numpy()


def layer_similarity(student: nn.Module, teacher: nn.Module, inputs: Iterable[Any]) -> LayerSimilarity:
    """Compare every layer of two models on the same inputs; both are afterwards as they were.

    Layers that give the same numbers, a container and its last layer, are one: the outermost. Left out are those
    whose output is no floating-point tensor with the batch first.

    Args:
        student: any module.
        teacher: any module.
        inputs: the batches' inputs, as both models get them.

    Raises:
        UsageError: no batch had 4 samples.
        ModelError: a layer that ran in the first batch did not run in a later one, or no layer can be compared.
    """
    from kdhooks.torch.backend import BACKEND
    from kdhooks.torch.observation.untouched import untouched

    cka, batches, rows = MinibatchCKA(), 0, 0
    with ExitStack() as stack:
        stack.enter_context(untouched([student, teacher], None, BACKEND))
        for model in (student, teacher):
            stack.enter_context(BACKEND.evaluation_mode(model))
        stack.enter_context(torch.no_grad())
        sides = [stack.enter_context(_Side(student, "student")), stack.enter_context(_Side(teacher, "teacher"))]
        for given in inputs:
            count = rows_of(given)
            if count < FEWEST_ROWS:
                continue
            grams = [side.grams(given, count) for side in sides]
            cka.add_grams(*grams)
            batches, rows = batches + 1, rows + count
    if not batches:
        raise UsageError(f"no batch has {FEWEST_ROWS} samples, so no layers can be compared")
    left, right = (side.layers for side in sides)
    return LayerSimilarity(left, right, cka.values(), _fits(left, right), batches, rows)


def observed_similarity(distiller: Any, batches: int) -> LayerSimilarity:
    """The layers of a distiller's models on the first batches of its training data.

    Raises:
        UsageError: there is not one teacher, or no data.
    """
    from kdhooks.torch.backend import BACKEND
    from kdhooks.torch.observation.batches import loader_of, parts_of
    from kdhooks.torch.observation.untouched import untouched

    if not isinstance(distiller.teacher_model, nn.Module):
        raise UsageError("layers are compared with those of one teacher")
    if distiller.train_dataloader is None and distiller.conf.settings.distillation.train.dataloader is None:
        raise UsageError("there is no data to compare layers on: describe distillation.train.dataloader in the YAML")
    loader = loader_of(distiller, None)
    with untouched([], loader, BACKEND):
        inputs: Iterator[Any] = (parts_of(raw, distiller).input for raw in islice(loader, batches))
        return layer_similarity(distiller.student_model, distiller.teacher_model, inputs)


class _Side:
    """One model: its layers, and their matrices for a batch. A context, within which hooks stand on it."""

    def __init__(self, model: nn.Module, role: str) -> None:
        self.layers: list[SeenLayer] = []
        self._taps = TeacherTaps(model, role)
        place = next(iter(model.parameters()), None)
        self._move = moved(place.device, None) if place is not None else None

    def __enter__(self) -> _Side:
        self._taps.attach([(name, False) for name in named_layers(self._taps.model) if name])
        return self

    def __exit__(self, *_: object) -> None:
        self._taps.detach()

    def grams(self, given: Any, rows: int) -> list[Tensor]:
        """The matrix of each layer; the first batch decides which layers there are."""
        args, kwargs = as_call(given if self._move is None else map_tensors(self._move, given))
        self._taps.run(None, *args, **kwargs)
        try:
            return [self._gram(layer, rows) for layer in self.layers] if self.layers else self._find(rows)
        finally:
            self._taps.release()

    def _gram(self, layer: SeenLayer, rows: int) -> Tensor:
        calls = self._taps.slots[layer.name, False].read()
        found = dict(features(calls[-1], rows)).get(layer.selector) if calls else None
        if found is None:
            about = f"{self._taps.role} {self._taps.kind}: layer {layer.name!r}"
            raise ModelError(f"{about} gave a feature in the first batch and none in a later one")
        return centered_gram(found)

    def _find(self, rows: int) -> list[Tensor]:
        """The layers of the first batch; of those with the same numbers the outermost."""
        found: dict[bytes, tuple[SeenLayer, Tensor]] = {}
        for name, _ in self._taps.order():
            calls = self._taps.slots[name, False].read()
            for selector, feature in features(calls[-1], rows):
                gram = centered_gram(feature)
                if not torch.isfinite(gram).all():
                    continue
                key = gram.cpu().numpy().tobytes()
                if key not in found or name.count(".") < found[key][0].name.count("."):
                    found[key] = SeenLayer(name, selector, tuple(feature.shape)), gram
        if not found:
            raise ModelError(
                f"{self._taps.role} {self._taps.kind} has no layer that gives a feature with the batch first"
            )
        self.layers = [layer for layer, _ in found.values()]
        return [gram for _, gram in found.values()]


def features(value: Any, rows: int) -> Iterator[tuple[str, Tensor]]:
    """The features in what a layer returned, each with its selector."""
    if isinstance(value, Tensor):
        parts: list[tuple[str, Any]] = [("", value)]
    elif isinstance(value, Mapping):
        parts = [(str(key), item) for key, item in value.items()]
    else:
        parts = [(str(index), item) for index, item in enumerate(value)] if isinstance(value, (tuple, list)) else []
    for selector, item in parts:
        if (
            isinstance(item, Tensor)
            and item.is_floating_point()
            and item.ndim >= 2
            and len(item) == rows
            and item.numel()
        ):
            yield selector, item


def _checked(feature: Tensor) -> Tensor:
    if feature.ndim < 2 or len(feature) < FEWEST_ROWS:
        raise UsageError(f"a feature [N, ...] of at least {FEWEST_ROWS} samples is needed, not {list(feature.shape)}")
    return feature


def rows_of(given: Any) -> int:
    """The size of a batch."""
    found: list[int] = []

    def look(tensor: Tensor) -> Tensor:
        if tensor.ndim:
            found.append(len(tensor))
        return tensor

    map_tensors(look, given)
    return found[0] if found else 0


def _fits(student: Sequence[SeenLayer], teacher: Sequence[SeenLayer]) -> Any:
    known: dict[tuple[tuple[int, ...], tuple[int, ...]], bool] = {}

    def fit(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        if (one, other) not in known:
            try:
                build_matcher("auto", one, other)
                known[one, other] = True
            except MatcherError:
                known[one, other] = False
        return known[one, other]

    return np.array([[fit(one.shape, other.shape) for other in teacher] for one in student])
