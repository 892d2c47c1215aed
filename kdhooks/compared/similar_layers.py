"""The similarity of some layers of two models within bounds, for the page of a run; backends have the formulas.

Rule: features are held for as few rows at a time as `CHUNK_BYTES` allow, and only of the layers that are compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from kdhooks.compared.limits import evenly
from kdhooks.compared.looks import NoLook
from kdhooks.nests import arrays_in, is_array, map_leaves

CHUNK_BYTES = 256 << 20
"""What the features of a chunk of rows may take, of both sides together."""

MOST_ROWS = 64
"""Rows of a chunk: a matrix [N, N] of a layer costs N times its features."""

FEWEST_ROWS = 4
"""The unbiased estimate of CKA needs as many samples in a batch."""

_SAMPLED = 64


class Side:
    """One model with hooks on the layers that are compared; a context, within which they stand.

    Args:
        taps: of the model, which is in evaluation mode: they capture layers in a forward.
        first: a few rows, by which layers are found.
        most: layers, at most.
        names: those that are chosen already.

    Attributes:
        labels: the layers, in the order in which they run.
        row_bytes: of their features for a row.
        separator: of the parts of a layer's name.
    """

    separator = "."

    def __init__(self, taps: Any, first: Any, most: int, names: Sequence[str] | None) -> None:
        self._taps = taps
        self.row_bytes = 0
        found = self._found(first, most, None if names is None else set(names))
        if names is not None and list(found) != list(names):  # a new model may give the same layers other names
            found = self._found(first, most, None)
        if not found:
            raise NoLook(f"the {taps.role} has no layer that gives a feature with the batch first")
        self._layers = found
        self.labels = list(found)

    def __enter__(self) -> Side:
        self._taps.attach(list(dict.fromkeys((name, False) for name, _ in self._layers.values())))
        return self

    def __exit__(self, *_: object) -> None:
        self._taps.detach()

    # ---- what a framework does ---------------------------------------------------------------------

    def _names(self) -> Iterable[str]:
        """The names of all layers of the model."""
        raise NotImplementedError

    def _run(self, given: Any) -> None:
        """One forward, with the taps that stand."""
        raise NotImplementedError

    def _features(self, value: Any, rows: int) -> Iterator[tuple[str, Any]]:
        """The features in what a layer returned, each with its selector."""
        raise NotImplementedError

    def _gram(self, feature: Any) -> Any:
        """The centred matrix [N, N] of a feature [N, ...]."""
        raise NotImplementedError

    def _flat(self, feature: Any) -> Any:
        """A feature as a flat array of NumPy in float64, in the order of memory of each row, or None if not finite."""
        raise NotImplementedError

    def _row_bytes(self, feature: Any) -> int:
        """What a row of a feature takes."""
        raise NotImplementedError

    # ---- what is the same in both --------------------------------------------------------------------

    def grams(self, given: Any) -> list[Any]:
        """The matrix of each layer."""
        count = rows_of(given)
        self._run(given)
        try:
            return [self._gram(self._feature(*layer, count)) for layer in self._layers.values()]
        finally:
            self._taps.release()

    def _feature(self, name: str, selector: str, rows: int) -> Any:
        calls = self._taps.slots[name, False].read()
        found = dict(self._features(calls[-1], rows)).get(selector) if calls else None
        if found is None:
            raise NoLook(f"the {self._taps.role}'s layer {name!r} gave a feature in the first batch and none later")
        return found

    def _found(self, first: Any, most: int, names: set[str] | None) -> dict[str, tuple[str, str]]:
        """Layer and selector by label; of layers with the same numbers the outermost, evenly along the depth."""
        self._taps.attach([(name, False) for name in self._names() if name])
        try:
            self._run(first)
            seen: dict[Any, tuple[str, str, int]] = {}
            for name, selector, feature in self._captured():
                flat = self._flat(feature)
                if flat is None:
                    continue
                label = _label(name, selector)
                # a few numbers tell features with other numbers apart
                key = label if names is not None else (len(flat), flat[:: max(1, len(flat) // _SAMPLED)].tobytes())
                if key not in seen or name.count(self.separator) < seen[key][0].count(self.separator):
                    seen[key] = name, selector, self._row_bytes(feature)
        finally:
            self._taps.detach()
        chosen = list(seen.values())
        if names is not None:
            chosen = [one for one in chosen if _label(*one[:2]) in names]
        chosen = evenly(chosen, most)
        self.row_bytes = sum(width for _, _, width in chosen)
        return {_label(name, selector): (name, selector) for name, selector, _ in chosen}

    def _captured(self) -> Iterator[tuple[str, str, Any]]:
        for name, _ in self._taps.order():
            calls = self._taps.slots[name, False].read()
            for selector, feature in self._features(calls[-1], FEWEST_ROWS) if calls else ():
                yield name, selector, feature


def bounded_similarity(
    inputs: Iterable[Any],
    cka: Any,
    make: Callable[[int, Any, Sequence[str] | None], Side],
    *,
    rows: int,
    names: tuple[Sequence[str], Sequence[str]] | None,
    over: Callable[[], bool],
) -> tuple[list[str], list[str], list[list[float]]]:
    """The linear CKA of layers of both models; see `kdhooks.compared.Looks.similarity`.

    Args:
        inputs: batches.
        cka: a backend's `MinibatchCKA`.
        make: the student's `Side` (0) or the teacher's (1), by a few rows and the layers that are chosen already.
        rows: at most.
        names: the layers of both that are chosen already.
        over: whether the time is up.

    Raises:
        NoLook: there are fewer rows than an estimate needs, or no layers to compare.
    """
    seen = 0
    with ExitStack() as stack:
        sides: list[Side] = []
        chunk = FEWEST_ROWS
        for given in inputs:
            if not sides and rows_of(given) >= FEWEST_ROWS:
                first = part_of(given, 0, FEWEST_ROWS)
                chosen = (None, None) if names is None else names
                sides = [stack.enter_context(make(which, first, own)) for which, own in enumerate(chosen)]
                row = sum(side.row_bytes for side in sides)
                chunk = max(FEWEST_ROWS, min(MOST_ROWS, CHUNK_BYTES // max(row, 1)))
            for part in _parts_of(given, min(chunk, rows - seen)):
                cka.add_grams(*(side.grams(part) for side in sides))
                seen += rows_of(part)
                if seen >= rows or over():
                    break
            if sides and (seen >= rows or over()):
                break
    if not seen:
        raise NoLook(f"no batch of the evaluation data has {FEWEST_ROWS} rows, so no layers can be compared")
    return sides[0].labels, sides[1].labels, cka.values().tolist()


def rows_of(given: Any) -> int:
    """The size of a batch: of the first array in it that has axes."""
    return next((int(one.shape[0]) for one in arrays_in(given)), 0)


def part_of(given: Any, first: int, last: int) -> Any:
    """Some rows of inputs; what has another number of rows stays whole."""
    count = rows_of(given)

    def cut(array: Any) -> Any:
        return array[first:last] if len(array.shape) and array.shape[0] == count else array

    return map_leaves(is_array, cut, given)


def _parts_of(given: Any, size: int) -> Iterator[Any]:
    """Inputs in parts of so many rows; a last part that is too short for an estimate is left out."""
    count = rows_of(given)
    for first in range(0, count, max(size, FEWEST_ROWS)):
        last = min(first + max(size, FEWEST_ROWS), count)
        if last - first >= FEWEST_ROWS:
            yield part_of(given, first, last)


def _label(name: str, selector: str) -> str:
    return f"{name}[{selector}]" if selector else name
