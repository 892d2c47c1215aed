"""The part of `kdhooks.compared.Looks` that no framework is needed for: the evaluation data, row by row."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

from kdhooks.compared.looks import NoLook
from kdhooks.compared.rows import SeenRows
from kdhooks.compared.similar_layers import part_of, rows_of


class EvaluationLooks:
    """A student, its teachers, and what evaluates them.

    Attributes:
        student: the model that is looked at.
        teachers: by name.
        no_data: what is said where there are no evaluation data.
    """

    student: Any
    teachers: Mapping[str, Any]
    no_data = "there are no evaluation data: set eval_dataloader, or name a dataset in evaluation.accuracy.dataloader"
    _evaluation: Any = None
    _keys: Any = ()

    @property
    def _data(self) -> Any:
        if self._evaluation is None:
            raise NoLook(self.no_data)
        return self._evaluation

    @property
    def _loader(self) -> Any:
        return None if self._evaluation is None else self._evaluation.loader

    # ---- what a framework does ---------------------------------------------------------------------

    def _looking(self) -> AbstractContextManager[None]:
        """Within the block the models may run on the evaluation data."""
        raise NotImplementedError

    def _compare(self, inputs: Iterator[Any], **limits: Any) -> tuple[list[str], list[str], list[list[float]]]:
        """The linear CKA of layers of the student and the only teacher."""
        raise NotImplementedError

    def _logits(self, output: Any, name: str) -> Any:
        """The logits of a model's output as an array of float32."""
        raise NotImplementedError

    def _labels(self, target: Any) -> Any:
        """Class numbers as an array; None where there are none."""
        raise NotImplementedError

    def _shown(self, given: Any) -> Callable[[int], Any]:
        """A function that gives a row of a tensor as an array, for people; None where it is no tensor or too large."""
        raise NotImplementedError

    def _size(self, loader: Any) -> Any:
        """The rows of a batch, of a loader that has no ``batch_size``."""
        raise NotImplementedError

    # ---- what is the same in all --------------------------------------------------------------------

    def similarity(
        self, rows: int, layers: int, names: tuple[Sequence[str], Sequence[str]] | None, over: Callable[[], bool]
    ) -> tuple[list[str], list[str], list[list[float]]]:
        """The linear CKA of layers; see `kdhooks.compared.Looks`."""
        data = self._data
        with self._looking():
            inputs = (parts.input for parts in data.batches())
            return self._compare(inputs, rows=rows, layers=layers, names=names, over=over)

    def rows(self, seen: SeenRows, teacher: str, over: Callable[[], bool]) -> dict[str, float]:
        """Show the outputs of both to `seen`; see `kdhooks.compared.Looks`."""
        data, spent = self._data, {"student": 0.0, "teacher": 0.0}
        with self._looking():
            runs = {"student": data.forward_of(self.student), "teacher": data.forward_of(self.teachers[teacher])}
            for parts in data.batches():
                if rows_of(parts.input) > seen.left:
                    first = {name: part_of(getattr(parts, name), 0, seen.left) for name in ("input", "target")}
                    parts = replace(parts, **first)
                outputs, labels = {}, None
                for name, forward in runs.items():
                    began = time.perf_counter()
                    output, labels = forward(parts)
                    outputs[name] = self._logits(output, name)
                    spent[name] += time.perf_counter() - began
                shown = self._shown(main_input(parts.input))
                seen.add(outputs["teacher"], outputs["student"], self._labels(labels), shown)
                if not seen.left or over():
                    break
        return {name: seconds / max(seen.count, 1) for name, seconds in spent.items()}

    def class_names(self) -> Sequence[str] | None:
        """``classes`` of the evaluation's dataset, as torchvision's have it."""
        names = getattr(getattr(self._data.loader, "dataset", None), "classes", None)
        return names if isinstance(names, (list, tuple)) else None

    def one_row(self) -> Any:
        """The input of the first row."""
        with self._looking():
            parts = next(self._data.batches(), None)
        return None if parts is None else part_of(parts.input, 0, 1)

    def count_rows(self) -> int | None:
        """Rows of an evaluation, where the loader tells."""
        batches, loader = self._data.count_batches(), self._data.loader
        size = getattr(loader, "batch_size", None)
        size = self._size(loader) if size is None else size
        return batches * size if batches is not None and isinstance(size, int) else None


def main_input(given: Any) -> Any:
    """What of a model's inputs people would look at: images, ids of tokens, or else the first one."""
    if isinstance(given, Mapping):
        known = next((given[key] for key in ("pixel_values", "input_ids") if key in given), None)
        return next(iter(given.values()), None) if known is None else known
    if isinstance(given, (tuple, list)):
        return given[0] if given else None
    return given
