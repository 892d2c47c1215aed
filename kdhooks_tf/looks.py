"""Teacher and student on the evaluation data, for the page of a run: `kdhooks.compared.Looks` for TensorFlow."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.compared import NoLook
from kdhooks.compared.evaluation_looks import EvaluationLooks
from kdhooks.criterion import teachers_by_name
from kdhooks_tf.evaluation import evaluator
from kdhooks_tf.observation.batches import untouched
from kdhooks_tf.outputs import tensor_of
from kdhooks_tf.replicas import is_distributed
from kdhooks_tf.similar_layers import bounded_similarity
from kdhooks_tf.teacher import is_built, layers_of, losses_kept

_LARGEST_INPUT = 1 << 20


class TensorFlowLooks(EvaluationLooks):
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

    @contextmanager
    def _looking(self) -> Iterator[None]:
        """Within the block the models may run on the evaluation data."""
        with ExitStack() as stack:
            stack.enter_context(untouched(self._loader))
            for model in self._named.values():
                stack.enter_context(losses_kept(layers_of(model)))
            yield

    def _compare(self, inputs: Iterator[Any], **limits: Any) -> tuple[list[str], list[str], list[list[float]]]:
        return bounded_similarity(self.student, next(iter(self.teachers.values())), inputs, **limits)

    def _logits(self, output: Any, name: str) -> Any:
        return np.asarray(tf.cast(tensor_of(output, self._keys, model=name), tf.float32))

    def _labels(self, target: Any) -> Any:
        """Class numbers [N]; one-hot rows of Keras become numbers."""
        if not tf.is_tensor(target):
            return None
        labels = np.asarray(target)
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        return labels.astype(np.int64) if labels.dtype.kind == "f" and (labels == labels.round()).all() else labels

    def _shown(self, given: Any) -> Callable[[int], Any]:
        def row(number: int) -> Any:
            if not tf.is_tensor(given) or int(np.prod(given.shape[1:])) > _LARGEST_INPUT:
                return None
            one = given[number]
            return np.asarray(tf.cast(one, tf.float32) if one.dtype.is_floating else one)

        return row

    def _size(self, loader: Any) -> Any:
        return getattr(getattr(loader, "position", None), "batch_size", None)

    def metrics(self, model: Any) -> dict[str, float]:
        """What the evaluation finds of a model."""
        with self._looking():
            found: dict[str, float] = self._data(model)[0]
        return found

    def bytes_of(self, model: Any) -> int:
        """The variables, each once."""
        variables = {id(one): one for one in model.weights}
        return sum(int(np.prod(one.shape)) * tf.as_dtype(one.dtype).size for one in variables.values())
