"""Stored outputs in a function that is traced: looked up each time that it runs, by Python between its operations.

Rules: two operations of NumPy, `look` and `complete`, stand around the teacher's own, which are in a branch that runs
where a row is missing, on the missing rows only. Nothing of a batch is known while the function is traced: its rows,
their number and their length may be others each time. What goes wrong in a lookup is said, and the teacher runs.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from kdhooks.cache import Lookup, Tokens, TopK
from kdhooks.criterion import Step
from kdhooks.errors import DataError, UsageError
from kdhooks.messages import logger
from kdhooks.pairs.selection import tensors_of
from kdhooks.stored.batches import MASK
from kdhooks.stored.looks import LOGITS, Wants
from kdhooks.stored.rows import KeyedBatch, Rows
from kdhooks.stored.served import Served
from kdhooks_tf.graphs import is_compiled
from kdhooks_tf.layer_mappings import VALUES
from kdhooks_tf.outputs import map_tensors, tensors_of_nest
from kdhooks_tf.stored_teacher import dense_logits

if TYPE_CHECKING:
    from kdhooks_tf.stored_teacher import StoredTeacher

Tensor = Any

WAITING = 64
"""Lookups at most between `look` and `complete`: one for each replica, unless steps were broken off."""

BATCHES = 3
"""So many computed batches are compared with what the codec makes of them."""

_ALONE = threading.Lock()
"""Replicas run at the same time, and all teachers share what is known of a batch."""

_COMPILED = (
    "distillation.cache asks Python for the outputs at every step, and a function that XLA compiles can't: leave "
    "jit_compile=True out, or let them come with the data: kdhooks_tf.stored_outputs(dataset, store)"
)


class Lookups:
    """The lookups of one teacher in functions.

    Args:
        teacher: whose outputs are stored.
    """

    def __init__(self, teacher: StoredTeacher) -> None:
        self._teacher = teacher
        self._number = 0
        self._waiting: dict[int, tuple[Rows, KeyedBatch, Lookup]] = {}
        self._compared: list[tuple[float, float]] = []

    # ---- while a function is traced ----------------------------------------------------------------

    def serve(self, value: Any, step: Step, effect: str) -> Served:
        """The outputs of a step as tensors of the graph.

        Raises:
            UsageError: the function is one that XLA compiles.
        """
        if is_compiled():
            raise UsageError(_COMPILED)
        given = (value, step.sample_ids)
        tensors = tensors_of_nest(given)

        def look(*arrays: NDArray[Any]) -> tuple[Any, Any]:
            left = iter(arrays)
            batch, ids = map_tensors(lambda _: next(left), given)
            return self._look(Step(0, batch, None, sample_ids=ids), effect, step)

        number, missing = tf.numpy_function(look, tensors, [tf.int64, tf.int64])
        number.set_shape([])
        missing.set_shape([None])
        fields: list[_Field] = []

        def computed() -> list[Tensor]:
            outputs = self._computed(value, step, missing)
            fields[:] = [_Field(self._teacher, name, output) for name, output in outputs.items()]
            names = tuple(outputs)
            return self._made(lambda one, *arrays: self._complete(int(one), dict(zip(names, arrays, strict=True))),
                              [number, *outputs.values()], fields)  # fmt: skip

        def read() -> list[Tensor]:
            names = tuple(field.name for field in fields)
            return self._made(lambda one: self._complete(int(one), {}, names), [number], fields)

        flat = tf.cond(tf.size(missing) > 0, computed, read)
        return self._served(flat, fields, value, step)

    def _made(self, function: Any, given: list[Tensor], fields: list[_Field]) -> list[Tensor]:
        """The parts of all outputs from Python."""

        def parts(*arrays: Any) -> list[Any]:
            said = function(*arrays)
            return [part for field in fields for part in field.parts(said[field.name])]

        found = tf.numpy_function(parts, given, [dtype for field in fields for dtype in field.dtypes])
        return list(found) if isinstance(found, (list, tuple)) else [found]

    def _computed(self, value: Any, step: Step, missing: Tensor) -> dict[str, Tensor]:
        """What the model says of the missing rows, by names of a row."""
        teacher, wants = self._teacher, self._wants()
        whole = teacher.whole_batches()
        some = value if whole else _picked(value, missing)
        outputs: dict[str, Tensor] = {}
        if wants.output:
            outputs[LOGITS] = teacher.logits(teacher.live(some, step), wants.keys)
        else:
            teacher.live.features(some, wants.layers, step)
        for look in wants.looks:
            outputs |= look.named(tensors_of(look.tap, teacher.live.taps, look.calls, VALUES))
        teacher.live.release()
        wide = {name: tf.cast(one, tf.float32) if one.dtype.size < 4 else one for name, one in outputs.items()}
        return {name: tf.gather(one, missing) for name, one in wide.items()} if whole else wide

    def _served(self, flat: list[Tensor], fields: list[_Field], value: Any, step: Step) -> Served:
        left, outputs = iter(flat), {}
        mask = _mask(value)
        rows = _rows(value)
        by_tokens: set[str] = set()
        for field in fields:
            outputs[field.name] = field.whole([next(left) for _ in field.dtypes], rows)
            if mask is not None and field.has_tokens(mask):
                by_tokens.add(field.name)
        if by_tokens:
            narrow = self._teacher.narrowing(mask)
            for key in self._teacher.layers_of_outputs(by_tokens):
                step.held[self._teacher.name, key] = narrow
        return Served(step, type(self._teacher.live.model).__name__, outputs)

    def _wants(self) -> Wants:
        wants = self._teacher._wants
        if wants is None:
            raise UsageError("on_train_begin() comes before the first loss")
        return wants

    # ---- while it runs -----------------------------------------------------------------------------

    def _look(self, step: Step, effect: str, traced: Step) -> tuple[Any, Any]:
        """The number of the lookup, -1 where there is no store, and the missing rows."""
        with _ALONE:
            teacher = self._teacher
            rows = teacher.rows_in_use(effect)
            if rows is not None:
                try:
                    batch = rows.batch(step.input, step)
                    found = rows.lookup(batch)
                    return self._kept(rows, batch, found, traced)
                except DataError as error:
                    rows.skip(error)
                finally:
                    teacher.shared.forget()
            return np.int64(-1), np.arange(_rows_of_arrays(step.input), dtype=np.int64)

    def _kept(self, rows: Rows, batch: KeyedBatch, found: Lookup, traced: Step) -> tuple[Any, Any]:
        if len(self._waiting) >= WAITING:
            self._waiting.clear()
        self._number += 1
        self._waiting[self._number] = rows, batch, found
        traced.ledger.count("hits", batch.rows - len(found.missing))
        traced.ledger.count("misses", len(found.missing))
        return np.int64(self._number), np.asarray(found.missing, np.int64)

    def _complete(self, number: int, computed: Mapping[str, Any], names: tuple[str, ...] = ()) -> Mapping[str, Any]:
        """The outputs of the whole batch, [N, ...], as the teacher gives them; those of top-k as such."""
        teacher = self._teacher
        with _ALONE:
            if number not in self._waiting:
                return {name: self._as_logits(name, array) for name, array in computed.items()}
            rows, batch, found = self._waiting.pop(number)
            arrays = {name: teacher.as_stored(name, array) for name, array in computed.items()}
            try:
                said = rows.complete(found, batch, arrays) if computed else found.rows
            except DataError as error:
                rows.skip(error)
                if len(found.missing) < batch.rows:
                    raise
                return {name: self._as_logits(name, array) for name, array in computed.items()}
            shown = {name: _padded(teacher.as_served(name, held), batch) for name, held in said.items()}
            if computed and teacher.shared.lossy and len(found.missing) == batch.rows:
                self._compare(computed, shown)
            return shown

    def _as_logits(self, name: str, array: NDArray[Any]) -> Any:
        top_k = self._teacher.shared.settings.top_k
        return array if top_k is None or name != LOGITS else TopK.of(array, top_k)

    def _compare(self, computed: Mapping[str, Any], shown: Mapping[str, Any]) -> None:
        """Say what the codec does to the logits, once some batches are known."""
        if LOGITS not in computed or len(self._compared) >= BATCHES:
            return
        exact, held = computed[LOGITS], shown[LOGITS]
        held = held.dense() if isinstance(held, TopK) else held
        self._compared.append((float(np.square(held - exact).mean()), float(np.square(exact).mean())))
        if len(self._compared) == BATCHES:
            error, size = (sum(one) for one in zip(*self._compared, strict=True))
            logger.info(
                "the cache changes logits of the %s by %.2g %% (root mean square, on the first %d batches)",
                self._teacher.name,
                100 * (error / size) ** 0.5 if size else 0.0,
                BATCHES,
            )


class _Field:
    """One output in a graph: how it comes out of Python, and its shape.

    Args:
        teacher: whose it is.
        name: in a row.
        output: what the model says of missing rows, [M, ...].
    """

    def __init__(self, teacher: StoredTeacher, name: str, output: Tensor) -> None:
        settings = teacher.shared.settings
        self.name = name
        self._shape = output.shape.as_list()[1:]
        self._top_k = settings.top_k if name == LOGITS else None
        self._pooled = teacher.is_pooled(name, output.shape.rank)
        if self._pooled and settings.pool is not None:
            self._shape[:-1] = settings.pool

    @property
    def dtypes(self) -> list[Any]:
        """Of its parts: the values, or the largest logits, their classes and the rest."""
        return [tf.float32] if self._top_k is None else [tf.float32, tf.int32, tf.float32]

    def parts(self, held: Any) -> list[Any]:
        """What comes out of Python."""
        if self._top_k is None:
            return [np.asarray(held, np.float32)]
        return [held.values, held.indices.astype(np.int32), held.rest]

    def whole(self, parts: list[Tensor], rows: Any) -> Tensor:
        """The output [N, ...], with all of its shape that is known."""
        if self._top_k is None:
            parts[0].set_shape([rows, *self._shape])
            return parts[0]
        values, indices, rest = parts
        for one in (values, indices):
            one.set_shape([rows, *self._shape[:-1], self._top_k])
        rest.set_shape([rows, *self._shape[:-1]])
        dense = dense_logits(values, indices, rest, self._shape[-1])
        dense.set_shape([rows, *self._shape])
        return dense

    def has_tokens(self, mask: Tensor) -> bool:
        """Whether a row of it has a value for each token of a mask [N, T], and none for padding."""
        return len(self._shape) > 1 and (mask.shape[1] is None or self._shape[0] in (None, mask.shape[1]))


def _padded(held: Any, batch: KeyedBatch) -> Any:
    return held.padded(batch.tokens.kept) if isinstance(held, Tokens) and batch.tokens is not None else held


def _rows(value: Any) -> int | None:
    """How many rows a traced batch has, where that is known."""
    sizes = [one.shape[0] for one in tf.nest.flatten(value) if tf.is_tensor(one) and one.shape.rank]
    return None if None in sizes else max(sizes, default=None)


def _rows_of_arrays(value: Any) -> int:
    return max(len(one) for one in tf.nest.flatten(value) if isinstance(one, np.ndarray) and one.ndim)


def _picked(value: Any, places: Tensor) -> Any:
    """Some rows of a traced batch; a tensor that surely has one row, beside others, holds for all rows."""
    one_row = _rows(value) == 1

    def take(tensor: Tensor) -> Tensor:
        if tensor.shape.rank == 0 or (tensor.shape[0] == 1 and not one_row):
            return tensor
        return tf.gather(tensor, places)

    return map_tensors(take, value)


def _mask(value: Any) -> Tensor | None:
    """The mask of tokens in a traced batch."""
    mask: Any = value.get(MASK) if isinstance(value, Mapping) else None
    return mask if tf.is_tensor(mask) and mask.shape.rank == 2 else None
