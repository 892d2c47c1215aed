"""The similarity of some layers of two models within bounds, in TensorFlow; see `kdhooks.compared.similar_layers`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.compared import similar_layers
from kdhooks_tf.layer_names import named_layers
from kdhooks_tf.outputs import as_call
from kdhooks_tf.similarity import MinibatchCKA, centered_gram, features
from kdhooks_tf.teacher_taps import TeacherTaps


def bounded_similarity(
    student: Any,
    teacher: Any,
    inputs: Iterable[Any],
    *,
    rows: int,
    layers: int,
    names: tuple[Sequence[str], Sequence[str]] | None,
    over: Callable[[], bool],
) -> tuple[list[str], list[str], list[list[float]]]:
    """The linear CKA of layers of both models, which are built."""

    def make(which: int, first: Any, chosen: Sequence[str] | None) -> _Side:
        return _Side((student, teacher)[which], ("student", "teacher")[which], first, layers, chosen)

    return similar_layers.bounded_similarity(inputs, MinibatchCKA(), make, rows=rows, names=names, over=over)


class _Side(similar_layers.Side):
    separator = "/"

    def __init__(self, model: Any, role: str, first: Any, most: int, names: Sequence[str] | None) -> None:
        self._model = model
        super().__init__(TeacherTaps(model, role), first, most, names)

    def _names(self) -> Iterable[str]:
        return list(named_layers(self._model))

    def _run(self, given: Any) -> None:
        args, kwargs = as_call(self._model, given)
        self._taps.run(None, *args, training=False, **kwargs)

    def _features(self, value: Any, rows: int) -> Iterator[tuple[str, Any]]:
        return features(value, rows)

    def _gram(self, feature: Any) -> NDArray[Any]:
        return centered_gram(feature)

    def _flat(self, feature: Any) -> Any:
        flat = np.asarray(feature, np.float32).reshape(-1).astype(np.float64)
        return flat if np.isfinite(flat).all() else None

    def _row_bytes(self, feature: Any) -> int:
        return int(np.prod(feature.shape[1:])) * int(feature.dtype.size)
