"""The similarity of some layers of two models within bounds, for the page of a run; `similarity` has the formulas.

Rule: features are held for as few rows at a time as `CHUNK_BYTES` allow, and only of the layers that are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.compared import NoLook, evenly
from kdhooks.nests import is_array, map_leaves
from kdhooks.torch.outputs import as_call, map_tensors, moved
from kdhooks.torch.similarity import FEWEST_ROWS, MinibatchCKA, centered_gram, features, rows_of
from kdhooks.torch.teacher_taps import TeacherTaps
from kdhooks.torch.wrappers import named_layers

CHUNK_BYTES = 256 << 20
"""What the features of a chunk of rows may take, of both sides together."""

MOST_ROWS = 64
"""Rows of a chunk: a matrix [N, N] of a layer costs N times its features."""

_SAMPLED = 64


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
    """The linear CKA of layers of both models; see `kdhooks.compared.Looks.similarity`.

    Both models are in evaluation mode, and no gradient is computed.

    Raises:
        NoLook: there are fewer rows than an estimate needs, or no layers to compare.
    """
    cka, seen = MinibatchCKA(), 0
    with ExitStack() as stack:
        sides: list[_Side] = []
        chunk = FEWEST_ROWS
        for given in inputs:
            if not sides and rows_of(given) >= FEWEST_ROWS:
                first = part_of(given, 0, FEWEST_ROWS)
                chosen = (None, None) if names is None else names
                sides = [
                    stack.enter_context(_Side(model, role, first, layers, own))
                    for model, role, own in zip((student, teacher), ("student", "teacher"), chosen, strict=True)
                ]
                row = sum(side.row_bytes for side in sides)
                chunk = max(FEWEST_ROWS, min(MOST_ROWS, CHUNK_BYTES // max(row, 1)))
            for part in parts_of(given, min(chunk, rows - seen)):
                cka.add_grams(*(side.grams(part) for side in sides))
                seen += rows_of(part)
                if seen >= rows or over():
                    break
            if sides and (seen >= rows or over()):
                break
    if not seen:
        raise NoLook(f"no batch of the evaluation data has {FEWEST_ROWS} rows, so no layers can be compared")
    return sides[0].labels, sides[1].labels, cka.values().tolist()


def parts_of(given: Any, size: int) -> Iterator[Any]:
    """Inputs in parts of so many rows; a last part that is too short for an estimate is left out."""
    count = rows_of(given)
    for first in range(0, count, max(size, FEWEST_ROWS)):
        last = min(first + max(size, FEWEST_ROWS), count)
        if last - first >= FEWEST_ROWS:
            yield part_of(given, first, last)


def part_of(given: Any, first: int, last: int) -> Any:
    """Some rows of inputs; what has another number of rows stays whole."""
    count = rows_of(given)

    def cut(tensor: Any) -> Any:
        return tensor[first:last] if len(tensor.shape) and tensor.shape[0] == count else tensor

    return map_leaves(is_array, cut, given)


class _Side:
    """One model with hooks on the layers that are compared; a context, within which they stand.

    Args:
        model: in evaluation mode.
        role: for messages.
        first: a few rows, by which layers are found.
        most: layers, at most.
        names: those that are chosen already.

    Attributes:
        labels: the layers, in the order in which they run.
        row_bytes: of their features for a row.
    """

    def __init__(self, model: nn.Module, role: str, first: Any, most: int, names: Sequence[str] | None) -> None:
        self._taps = TeacherTaps(model, role)
        place = next(iter(model.parameters()), None)
        self._move = moved(place.device, None) if place is not None else None
        self.row_bytes = 0
        found = self._found(first, most, None if names is None else set(names))
        if names is not None and list(found) != list(names):  # a new model may give the same layers other names
            found = self._found(first, most, None)
        if not found:
            raise NoLook(f"the {role} has no layer that gives a feature with the batch first")
        self._layers = found
        self.labels = list(found)

    def __enter__(self) -> _Side:
        self._taps.attach(list(dict.fromkeys((name, False) for name, _ in self._layers.values())))
        return self

    def __exit__(self, *_: object) -> None:
        self._taps.detach()

    def grams(self, given: Any) -> list[Tensor]:
        """The matrix of each layer."""
        count = rows_of(given)
        self._run(given)
        try:
            return [centered_gram(self._feature(*layer, count)) for layer in self._layers.values()]
        finally:
            self._taps.release()

    def _run(self, given: Any) -> None:
        args, kwargs = as_call(given if self._move is None else map_tensors(self._move, given))
        self._taps.run(None, *args, **kwargs)

    def _feature(self, name: str, selector: str, rows: int) -> Tensor:
        calls = self._taps.slots[name, False].read()
        found = dict(features(calls[-1], rows)).get(selector) if calls else None
        if found is None:
            raise NoLook(f"the {self._taps.role}'s layer {name!r} gave a feature in the first batch and none later")
        return found

    def _found(self, first: Any, most: int, names: set[str] | None) -> dict[str, tuple[str, str]]:
        """Layer and selector by label; of layers with the same numbers the outermost, evenly along the depth."""
        self._taps.attach([(name, False) for name in named_layers(self._taps.model) if name])
        try:
            self._run(first)
            seen: dict[Any, tuple[str, str, int]] = {}
            for name, _ in self._taps.order():
                for selector, feature in features(self._taps.slots[name, False].read()[-1], FEWEST_ROWS):
                    if not torch.isfinite(feature).all():
                        continue
                    label = _label(name, selector)
                    key = label if names is not None else _sampled(feature)
                    if key not in seen or name.count(".") < seen[key][0].count("."):
                        width = feature[0].numel() * feature.element_size()
                        seen[key] = name, selector, width
        finally:
            self._taps.detach()
        chosen = list(seen.values())
        if names is not None:
            chosen = [one for one in chosen if _label(*one[:2]) in names]
        chosen = evenly(chosen, most)
        self.row_bytes = sum(width for _, _, width in chosen)
        return {_label(name, selector): (name, selector) for name, selector, _ in chosen}


def _label(name: str, selector: str) -> str:
    return f"{name}[{selector}]" if selector else name


def _sampled(feature: Tensor) -> Any:
    """What tells features with other numbers apart: a few of them, in the order of memory of each row."""
    flat = feature.flatten()
    return feature.numel(), flat[:: max(1, len(flat) // _SAMPLED)].double().cpu().numpy().tobytes()
