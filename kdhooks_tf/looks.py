"""Teacher and student on the evaluation data, for the page of a run: `kdhooks.compared.Looks` for TensorFlow."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.compared import NoLook, SeenRows
from kdhooks.compared.similar_layers import part_of, rows_of
from kdhooks.criterion import teachers_by_name
from kdhooks.loop.batches import Batch
from kdhooks_tf.evaluation import Evaluation, evaluator
from kdhooks_tf.observation.batches import untouched
from kdhooks_tf.outputs import tensor_of
from kdhooks_tf.replicas import is_distributed
from kdhooks_tf.similar_layers import bounded_similarity
from kdhooks_tf.teacher import is_built, layers_of, losses_kept

_NO_DATA = "there are no evaluation data: set eval_dataloader, or name a dataset in evaluation.accuracy.dataloader"
_LARGEST_INPUT = 1 << 20


class TensorFlowLooks:
    """A distiller's models and evaluation data.

    Args:
        distiller: the `Distillation`.

    Raises:
        NoLook: a model is not built yet, or lies on several replicas.
    """

    def __init__(self, distiller: Any) -> None:
        self.student: Any = distiller.student_model
        self.teachers: dict[str, Any] = dict(teachers_by_name(distiller.teacher_model))
        self._named = {"student": self.student, **self.teachers}
        for name, model in self._named.items():
            if not is_built(model):
                raise NoLook(f"the {name} is not built yet")
            if is_distributed(model):
                raise NoLook(f"the {name} lies on the replicas of a strategy")
        self._keys = distiller.conf.settings.model.outputs
        self._evaluation = evaluator(distiller)
        if isinstance(distiller.eval_dataloader, Iterator):
            raise NoLook("the evaluation data are an iterator, which can be gone through once")

    @property
    def _data(self) -> Evaluation:
        if self._evaluation is None:
            raise NoLook(_NO_DATA)
        return self._evaluation

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Within the block the models may run on the evaluation data."""
        with ExitStack() as stack:
            stack.enter_context(untouched(None if self._evaluation is None else self._evaluation.loader))
            for model in self._named.values():
                stack.enter_context(losses_kept(layers_of(model)))
            yield

    def similarity(
        self, rows: int, layers: int, names: tuple[Sequence[str], Sequence[str]] | None, over: Callable[[], bool]
    ) -> tuple[list[str], list[str], list[list[float]]]:
        """The linear CKA of layers; see `kdhooks.compared.Looks`."""
        data, teacher = self._data, next(iter(self.teachers.values()))
        with self._looking():
            inputs = (parts.input for parts in data.batches())
            limits: dict[str, Any] = {"rows": rows, "layers": layers, "names": names, "over": over}
            return bounded_similarity(self.student, teacher, inputs, **limits)

    def rows(self, seen: SeenRows, teacher: str, over: Callable[[], bool]) -> dict[str, float]:
        """Show the outputs of both to `seen`; see `kdhooks.compared.Looks`."""
        data, spent = self._data, {"student": 0.0, "teacher": 0.0}
        with self._looking():
            runs = {"student": data.forward_of(self.student), "teacher": data.forward_of(self.teachers[teacher])}
            for parts in data.batches():
                if rows_of(parts.input) > seen.left:
                    parts = Batch(part_of(parts.input, 0, seen.left), part_of(parts.target, 0, seen.left))
                outputs, labels = {}, None
                for name, forward in runs.items():
                    began = time.perf_counter()
                    output, labels = forward(parts)
                    outputs[name] = np.asarray(tf.cast(tensor_of(output, self._keys, model=name), tf.float32))
                    spent[name] += time.perf_counter() - began
                seen.add(outputs["teacher"], outputs["student"], _labels(labels), _shown(parts.input))
                if not seen.left or over():
                    break
        return {name: seconds / max(seen.count, 1) for name, seconds in spent.items()}

    def class_names(self) -> Sequence[str] | None:
        """``classes`` of the evaluation's dataset, where the loader has one."""
        names = getattr(getattr(self._data.loader, "dataset", None), "classes", None)
        return names if isinstance(names, (list, tuple)) else None

    def one_row(self) -> Any:
        """The input of the first row."""
        with self._looking():
            parts = next(self._data.batches(), None)
        return None if parts is None else part_of(parts.input, 0, 1)

    def count_rows(self) -> int | None:
        """Rows of an evaluation, where the loader tells."""
        batches = self._data.count_batches()
        size = getattr(self._data.loader, "batch_size", None)
        size = getattr(getattr(self._data.loader, "position", None), "batch_size", None) if size is None else size
        return batches * size if batches is not None and isinstance(size, int) else None

    def metrics(self, model: Any) -> dict[str, float]:
        """What the evaluation finds of a model."""
        with self._looking():
            return self._data(model)[0]

    def bytes_of(self, model: Any) -> int:
        """The variables, each once."""
        variables = {id(one): one for one in model.weights}
        return sum(int(np.prod(one.shape)) * tf.as_dtype(one.dtype).size for one in variables.values())


def _labels(target: Any) -> Any:
    """Class numbers [N]; one-hot rows of Keras become numbers."""
    if not tf.is_tensor(target):
        return None
    labels = np.asarray(target)
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    return labels.astype(np.int64) if labels.dtype.kind == "f" and (labels == labels.round()).all() else labels


def _shown(given: Any) -> Callable[[int], Any]:
    """A function that gives the input of a row for people: an image, or the ids of tokens."""
    if isinstance(given, Mapping):
        known = next((given[key] for key in ("pixel_values", "input_ids") if key in given), None)
        given = next(iter(given.values()), None) if known is None else known
    elif isinstance(given, (tuple, list)):
        given = given[0] if given else None

    def row(number: int) -> Any:
        if not tf.is_tensor(given) or int(np.prod(given.shape[1:])) > _LARGEST_INPUT:
            return None
        one = given[number]
        return np.asarray(tf.cast(one, tf.float32) if one.dtype.is_floating else one)

    return row
