"""A dataset whose batches come with what a teacher said of them, read from a store: no teacher is loaded.

What comes with a batch is an input of the step like any other, so the step may be compiled by XLA.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from kdhooks.errors import DataError, UsageError
from kdhooks.stored.batches import MASK, tokens_in
from kdhooks.stored.looks import LOGITS
from kdhooks.stored.spaces import StoredSpace
from kdhooks_tf.outputs import map_tensors, tensors_of_nest
from kdhooks_tf.stored_teacher import dense_logits

Tensor = Any

HANDED = ("teacher_output", "teacher_features", "mask")
"""What `on_after_compute_loss` is handed of it."""


def stored_outputs(
    dataset: Any,
    store: str | os.PathLike[str],
    *,
    teacher: str | None = None,
    sample_ids: Callable[..., Any] | None = None,
) -> Any:
    """The dataset with the stored outputs of each batch as a mapping behind its other parts.

    A batch ``(x, y)`` becomes ``(x, y, stored)``, ``(x, y, sample_weight)`` becomes ``(x, y, sample_weight, stored)``.
    `DistillationCallback` and ``fit()`` take them so; in a loop of your own
    ``on_after_compute_loss(x, output, loss, **stored)`` does. It holds ``teacher_output`` where logits are stored,
    ``teacher_features`` by layer where features are, and for padded tokens their ``mask``.

    Args:
        dataset: a ``tf.data.Dataset`` of batches, tuples whose first part is the teacher's input.
        store: the folder that ``distillation.cache`` or ``kdhooks cache build`` has filled.
        teacher: the name of the teacher's rows, as ``kdhooks cache info`` shows it, or how it begins; None where the
            store has one teacher.
        sample_ids: called with the parts of a batch as a function of ``Dataset.map`` is, gives the ids of its rows
            where the store was filled with ids; None finds rows by what the input is.

    Raises:
        UsageError: this is no such dataset, or it is not said which teacher is meant.
        StoreError: there is no store.

    Example:
        >>> import tempfile
        >>> import keras
        >>> from kdhooks import Distillation
        >>> student, teacher = (keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)]) for _ in range(2))
        >>> data = tf.data.Dataset.from_tensor_slices((tf.random.normal([8, 4]), tf.zeros([8], tf.int32))).batch(4)
        >>> with tempfile.TemporaryDirectory() as store:
        ...     conf = {"distillation": {"cache": {"path": store}}}
        ...     with Distillation(conf, student_model=student, teacher_model=teacher) as distiller:
        ...         for x, y in data:
        ...             loss = distiller.on_after_compute_loss(x, student(x), tf.constant(0.0))
        ...     x, y, stored = next(iter(stored_outputs(data, store)))
        >>> bool(tf.reduce_all(tf.abs(stored["teacher_output"] - teacher(x)) < 1e-5))
        True
    """
    if not isinstance(dataset, tf.data.Dataset):
        raise UsageError(f"stored_outputs needs a tf.data.Dataset of batches, not {type(dataset).__name__}")
    if not isinstance(dataset.element_spec, tuple):
        raise UsageError("stored_outputs needs batches that are tuples, of inputs, targets and what comes behind them")
    read = _Reader(StoredSpace(store, teacher))

    def taught(*parts: Any) -> tuple[Any, ...]:
        ids = None if sample_ids is None else sample_ids(*parts)
        return (*parts, read(parts[0], ids))

    return dataset.map(tf.autograph.experimental.do_not_convert(taught)).prefetch(tf.data.AUTOTUNE)


def without_stored(batch: Any) -> tuple[Any, dict[str, Any]]:
    """A batch without what `stored_outputs` put behind it, and that."""
    if isinstance(batch, (tuple, list)) and len(batch) > 1 and _is_stored(batch[-1]):
        return tuple(batch[:-1]), dict(batch[-1])
    return batch, {}


def _is_stored(part: Any) -> bool:
    return isinstance(part, Mapping) and bool(part) and set(part) <= set(HANDED) and set(part) != {"mask"}


class _Reader:
    """Reads the rows of a batch, in the graph of ``Dataset.map``.

    Args:
        space: the rows.
    """

    def __init__(self, space: StoredSpace) -> None:
        self._space = space
        self._layers = space.layers
        self._fields = space.layout.fields

    def __call__(self, value: Any, ids: Any) -> dict[str, Any]:
        given = (value, ids)
        tensors = tensors_of_nest(given)

        def parts(*arrays: NDArray[Any]) -> list[Any]:
            left = iter(arrays)
            batch, numbers = map_tensors(lambda _: next(left), given)
            return self._parts(batch, numbers)

        found = tf.numpy_function(parts, tensors, [one for field in self._fields for one in _dtypes(field)])
        left = iter(found if isinstance(found, (list, tuple)) else [found])
        rows = next((one.shape[0] for one in tensors if one.shape.rank), None)
        length = next((one.shape[1] for one in tensors if one.shape.rank == 2 and not one.dtype.is_floating), None)
        outputs = {}
        for field in self._fields:
            lead = [rows, length] if field.tokens else [rows]
            outputs[field.name] = _whole(field, [next(left) for _ in _dtypes(field)], lead)
        return self._handed(outputs, value)

    def _handed(self, outputs: dict[str, Tensor], value: Any) -> dict[str, Any]:
        handed: dict[str, Any] = {}
        if LOGITS in outputs:
            handed["teacher_output"] = outputs[LOGITS]
        if self._layers:
            handed["teacher_features"] = {layer: outputs[name] for layer, name in self._layers.items()}
        mask = value.get(MASK) if isinstance(value, Mapping) else None
        if mask is not None and any(field.tokens for field in self._fields):
            handed["mask"] = tf.cast(mask, tf.bool)
        return handed

    def _parts(self, batch: Any, ids: Any) -> list[Any]:
        from kdhooks.cache import Tokens, id_keys, row_keys

        keys = row_keys(batch) if ids is None else id_keys(ids)
        said = self._space.read(keys, range(len(keys)))
        parts: list[Any] = []
        for field in self._fields:
            held = said[field.name]
            if isinstance(held, Tokens):
                tokens = tokens_in(batch, np.asarray)
                if tokens is None:
                    raise DataError(f"{field.name} is stored by tokens, and the batch has none")
                held = held.padded(tokens.kept)
            parts += _cut(field, held)
        return parts


def _dtypes(field: Any) -> list[Any]:
    return [tf.float32] if field.codec.top_k is None else [tf.float32, tf.int32, tf.float32]


def _cut(field: Any, held: Any) -> list[Any]:
    """An output as what comes out of Python: maps as the teacher gave them, of top-k what is stored."""
    if field.codec.top_k is not None:
        return [held.values, held.indices.astype(np.int32), held.rest]
    return [np.ascontiguousarray(np.moveaxis(held, 1, -1) if field.codec.pool else held, np.float32)]


def _whole(field: Any, parts: list[Tensor], lead: list[Any]) -> Tensor:
    shape = list(field.shape)
    if field.codec.top_k is None:
        parts[0].set_shape([*lead, *shape[1:], shape[0]] if field.codec.pool else [*lead, *shape])
        return parts[0]
    values, indices, rest = parts
    for one in (values, indices):
        one.set_shape([*lead, *shape[:-1], field.codec.top_k])
    rest.set_shape([*lead, *shape[:-1]])
    dense = dense_logits(values, indices, rest, shape[-1])
    dense.set_shape([*lead, *shape])
    return dense
