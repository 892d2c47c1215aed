"""How alike layers of two models are: linear CKA over minibatches.

Kornblith et al. 2019, "Similarity of Neural Network Representations Revisited", with the unbiased estimate of HSIC of
Song et al. 2012 averaged over minibatches as in Nguyen et al. 2021, "Do Wide and Deep Networks Learn the Same
Things?": its expectation doesn't depend on the size of a batch. Features are flattened to one row a sample.

Rule: of a batch only the matrices [N, N] are kept, never features; all is computed in float64, in NumPy.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import islice
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from kdhooks.check import LayerSimilarity, SeenLayer
from kdhooks.errors import MatcherError, ModelError, UsageError
from kdhooks_tf.data import as_tensors
from kdhooks_tf.layer_names import named_layers
from kdhooks_tf.matchers import build_matcher
from kdhooks_tf.observation.batches import loader_of, parts_of, untouched
from kdhooks_tf.outputs import as_call
from kdhooks_tf.teacher_taps import TeacherTaps
from kdhooks_tf.training_data import served

Array = NDArray[Any]
Tensor = Any

FEWEST_ROWS = 4
"""The unbiased estimate needs as many samples in a batch."""


def centered_gram(feature: Any) -> Array:
    """The inner products of samples, U-centred: rows and columns sum to 0 and the diagonal is 0.

    Args:
        feature: [N, ...], N at least 4.

    Returns:
        [N, N] in float64.
    """
    rows = np.asarray(feature).astype(np.float64).reshape(len(feature), -1)
    rows = rows - rows.mean(0)  # changes nothing but rounding
    gram, n = rows @ rows.T, len(rows)
    np.fill_diagonal(gram, 0)
    sums = gram.sum(0) / (n - 2)
    gram = np.asarray(gram - sums[:, None] - sums[None, :] + sums.sum() / (n - 1))
    np.fill_diagonal(gram, 0)
    return gram


def linear_cka(one: Any, other: Any) -> float:
    """The similarity of two features of the same samples, with the unbiased HSIC.

    Args:
        one: [N, ...].
        other: [N, ...], of any other width.

    Returns:
        1 where one is a rotated, shifted and scaled copy of the other, about 0 for features that have nothing in
        common, and 0 where one is constant.

    Raises:
        UsageError: fewer than 4 samples, or features of different batches.

    Example:
        >>> feature = np.random.default_rng(0).normal(size=(16, 5))
        >>> round(linear_cka(feature, 3 * feature + 1), 6)
        1.0
    """
    cka = MinibatchCKA()
    cka.add_grams([centered_gram(_checked(one))], [centered_gram(_checked(other))])
    return float(cka.values()[0, 0])


class MinibatchCKA:
    """The linear CKA of every layer on one side with every layer on the other, gathered batch by batch.

    ``mean HSIC_1(K, L) / sqrt(mean HSIC_1(K, K) * mean HSIC_1(L, L))``, equation 2 of Nguyen et al. 2021.
    """

    def __init__(self) -> None:
        self._sums: list[Array] = []

    def add_grams(self, rows: Sequence[Array], columns: Sequence[Array]) -> None:
        """One more batch as the matrices of `centered_gram`, of both sides in the same order every time.

        Raises:
            UsageError: matrices of different batches.
        """
        if len({len(gram) for gram in (*rows, *columns)}) > 1:
            raise UsageError("features of batches of different sizes can't be compared")
        n = len(rows[0])
        left, right = (np.stack([gram.reshape(-1) for gram in side]) / (n * (n - 3)) ** 0.5 for side in (rows, columns))
        found = [left @ right.T, np.square(left).sum(1), np.square(right).sum(1)]
        self._sums = [one + other for one, other in zip(self._sums, found, strict=True)] if self._sums else found

    def values(self) -> Array:
        """[rows, columns]; 0 where a side is constant.

        Raises:
            UsageError: there was no batch.
        """
        if not self._sums:
            raise UsageError("there was no batch to compare features on")
        cross, left, right = self._sums
        scale = np.sqrt(left[:, None] * right[None, :])
        values: Array = np.divide(cross, scale, out=np.zeros_like(cross), where=scale > 0)
        return values


def layer_similarity(student: Any, teacher: Any, inputs: Iterable[Any]) -> LayerSimilarity:
    """Compare every layer of two models on the same inputs; both are afterwards as they were.

    Layers that give the same numbers, a container and its last layer, are one: the outermost. Left out are those
    whose output is no floating-point tensor with the batch first.

    Args:
        student: of Keras, built.
        teacher: of Keras, built.
        inputs: the batches' inputs, as both models get them.

    Raises:
        UsageError: no batch had 4 samples.
        ModelError: a layer that ran in the first batch did not run in a later one, or no layer can be compared.
    """
    cka, batches, rows = MinibatchCKA(), 0, 0
    with ExitStack() as stack:
        stack.enter_context(untouched(None))
        sides = [stack.enter_context(_Side(student, "student")), stack.enter_context(_Side(teacher, "teacher"))]
        for given in map(as_tensors, inputs):
            count = rows_of(given)
            if count < FEWEST_ROWS:
                continue
            cka.add_grams(*(side.grams(given, count) for side in sides))
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
    if not isinstance(distiller.teacher_model, keras.layers.Layer):
        raise UsageError("layers are compared with those of one teacher")
    if distiller.train_dataloader is None and distiller.conf.settings.distillation.train.dataloader is None:
        raise UsageError("there is no data to compare layers on: describe distillation.train.dataloader in the YAML")
    loader = loader_of(distiller, None)
    with untouched(loader):
        inputs: Iterator[Any] = (parts_of(raw, distiller).input for raw in islice(served(loader), batches))
        return layer_similarity(distiller.student_model, distiller.teacher_model, inputs)


class _Side:
    """One model: its layers, and their matrices for a batch. A context, within which shims stand on it."""

    def __init__(self, model: Any, role: str) -> None:
        self.layers: list[SeenLayer] = []
        self._taps = TeacherTaps(model, role)

    def __enter__(self) -> _Side:
        self._taps.attach([(name, False) for name in named_layers(self._taps.model) if name])
        return self

    def __exit__(self, *_: object) -> None:
        self._taps.detach()

    def grams(self, given: Any, rows: int) -> list[Array]:
        """The matrix of each layer; the first batch decides which layers there are."""
        args, kwargs = as_call(self._taps.model, given)
        self._taps.run(None, *args, training=False, **kwargs)
        try:
            return [self._gram(layer, rows) for layer in self.layers] if self.layers else self._find(rows)
        finally:
            self._taps.release()

    def _gram(self, layer: SeenLayer, rows: int) -> Array:
        calls = self._taps.slots[layer.name, False].read()
        found = dict(features(calls[-1], rows)).get(layer.selector) if calls else None
        if found is None:
            about = f"{self._taps.role} {self._taps.kind}: layer {layer.name!r}"
            raise ModelError(f"{about} gave a feature in the first batch and none in a later one")
        return centered_gram(found)

    def _find(self, rows: int) -> list[Array]:
        """The layers of the first batch; of those with the same numbers the outermost."""
        found: dict[bytes, tuple[SeenLayer, Array]] = {}
        for name, _ in self._taps.order():
            calls = self._taps.slots[name, False].read()
            for selector, feature in features(calls[-1], rows) if calls else ():
                gram = centered_gram(feature)
                if not np.isfinite(gram).all():
                    continue
                key = gram.tobytes()
                if key not in found or name.count("/") < found[key][0].name.count("/"):
                    found[key] = SeenLayer(name, selector, tuple(feature.shape)), gram
        if not found:
            raise ModelError(
                f"{self._taps.role} {self._taps.kind} has no layer that gives a feature with the batch first"
            )
        self.layers = [layer for layer, _ in found.values()]
        return [gram for _, gram in found.values()]


def features(value: Any, rows: int) -> Iterator[tuple[str, Tensor]]:
    """The features in what a layer returned, each with its selector."""
    if tf.is_tensor(value):
        parts: list[tuple[str, Any]] = [("", value)]
    elif isinstance(value, Mapping):
        parts = [(str(key), item) for key, item in value.items()]
    else:
        parts = [(str(index), item) for index, item in enumerate(value)] if isinstance(value, (tuple, list)) else []
    for selector, item in parts:
        feature = tf.is_tensor(item) and item.dtype.is_floating and item.shape.rank >= 2
        if feature and item.shape[0] == rows and int(np.prod(item.shape)):
            yield selector, item


def _checked(feature: Any) -> Any:
    if len(feature.shape) < 2 or len(feature) < FEWEST_ROWS:
        raise UsageError(f"a feature [N, ...] of at least {FEWEST_ROWS} samples is needed, not {list(feature.shape)}")
    return feature


def rows_of(given: Any) -> int:
    """The size of a batch."""
    found = [len(one) for one in tf.nest.flatten(given) if tf.is_tensor(one) and one.shape.rank]
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
