"""The rows of one teacher in a run: the keys of a batch, what is stored under them, and what is stored next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.cache import Codec, Layout, Lookup, TeacherStore, id_keys
from kdhooks.cache import Tokens as OfTokens
from kdhooks.cache.packages import xxhash
from kdhooks.criterion import Step
from kdhooks.errors import DataError, KDHooksError, UsageError
from kdhooks.messages import logger
from kdhooks.stored.batches import Tokens, keeps_padding, rows_in, tokens_in
from kdhooks.stored.looks import LOGITS, Wants

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class KeyedBatch:
    """A batch and what its rows are found by.

    Attributes:
        value: the teacher's input.
        rows: how many it has.
        tokens: where its tokens are, or None.
        keys: one a row.
    """

    value: Any
    rows: int
    tokens: Tokens | None
    keys: list[bytes]


class Rows:
    """The outputs of one teacher, in one precision.

    Args:
        teacher: whose they are.
        wants: what a row holds.
        fingerprint: names the space.
        about: what ``kdhooks cache info`` shows.

    Attributes:
        outputs: the rows in the store.
        wants: what a row holds.
    """

    def __init__(self, teacher: Any, wants: Wants, fingerprint: str, about: Mapping[str, str]) -> None:
        self._teacher, self._shared, self.wants = teacher, teacher.shared, wants
        self.outputs = TeacherStore(self._shared.store, fingerprint, {}, about=about)
        self._skipped = False

    # ---- a batch -----------------------------------------------------------------------------------

    def batch(self, value: Any, step: Step) -> KeyedBatch:
        """The keys of a batch.

        Raises:
            UsageError: there are not as many `sample_ids` as rows, or a row has no key.
        """
        rows = rows_in(value)
        try:
            keys = self._shared.keys(step, lambda: self._made(value, step))
        except DataError as error:
            raise UsageError(f"distillation.cache: {error}") from None
        if len(keys) != rows:
            raise UsageError(f"sample_ids holds {len(keys)} ids for a batch of {rows} rows: hand in one a row")
        tokens = tokens_in(value, self._teacher.array)
        if self.outputs.layout is None:  # it may have been written by another process
            self.outputs.lookup([])
        layout = self.outputs.layout
        return self._padded(KeyedBatch(value, rows, tokens, keys), {} if layout is None else _shapes(layout))

    def _made(self, value: Any, step: Step) -> list[bytes]:
        keys: list[bytes] = self._teacher.keys(value) if step.sample_ids is None else id_keys(step.sample_ids)
        return keys

    def _padded(self, batch: KeyedBatch, shapes: Mapping[str, tuple[tuple[int, ...], bool]]) -> KeyedBatch:
        """The same batch with the padding in its keys, where a row is stored with it."""
        if not keeps_padding(batch.value, batch.tokens, shapes):
            return batch
        masks = [np.asarray(self._teacher.array(mask)) != 0 for mask in _masks(batch.value)]
        packed = [np.packbits(mask, axis=1) for mask in masks if len(mask) == batch.rows]
        lengths = ",".join(str(mask.shape[1:]) for mask in masks).encode()
        keys = [
            xxhash.xxh3_128_digest(b"".join((key, lengths, *(mask[row].tobytes() for mask in packed))))
            for row, key in enumerate(batch.keys)
        ]
        return KeyedBatch(batch.value, batch.rows, batch.tokens, keys)

    def lookup(self, batch: KeyedBatch) -> Lookup:
        """What is stored of a batch. Of a teacher of whom nothing is stored yet, every row is missing."""
        found = self.outputs.lookup(batch.keys)
        if self.outputs.layout is None:
            found.missing = np.arange(batch.rows)
        return found

    def complete(self, found: Lookup, batch: KeyedBatch, computed: Arrays) -> Mapping[str, Any]:
        """Store what was computed of the missing rows; returns the whole batch as it is read.

        Raises:
            DataError: the outputs are not of the shapes of those that are stored.
            ConfigError: the settings don't fit the teacher's outputs.
        """
        if self.outputs.layout is None:
            return self._first(batch, computed)
        return found.complete(self._by_tokens(computed, batch, found.missing))

    def skip(self, error: DataError) -> None:
        """Leave a batch out; said once."""
        if not self._skipped:
            self._skipped = True
            logger.warning("the cache %s leaves batches out: %s", self._shared.store.path, error)

    # ---- inside ------------------------------------------------------------------------------------

    def _first(self, batch: KeyedBatch, computed: Arrays) -> Mapping[str, Any]:
        """The first rows of a teacher say what a row is."""
        outputs = self._by_tokens(computed, batch, np.arange(batch.rows))
        of_tokens = {name: isinstance(value, OfTokens) for name, value in outputs.items()}
        self.outputs.codecs = {name: self._codec(name, array, of_tokens[name]) for name, array in computed.items()}
        shapes = {
            name: (array.shape[2 if of_tokens[name] else 1 :], of_tokens[name]) for name, array in computed.items()
        }
        batch = self._padded(batch, shapes)
        found = self.outputs.lookup(batch.keys)  # of rows with equal keys only the first is stored
        some = {name: array[found.missing] for name, array in computed.items()}
        return found.complete(self._by_tokens(some, batch, found.missing))

    def _by_tokens(self, arrays: Arrays, batch: KeyedBatch, places: NDArray[np.intp]) -> dict[str, Any]:
        """Outputs [M, T, ...] by their tokens; of others nothing changes."""
        tokens = batch.tokens
        if tokens is None:
            return dict(arrays)
        shape, kept = tokens.kept.shape, tokens.kept[places]
        return {
            name: OfTokens.cut(array, kept) if array.ndim > 2 and array.shape[1] == shape[1] else array
            for name, array in arrays.items()
        }

    def _codec(self, name: str, array: NDArray[Any], of_tokens: bool) -> Codec:
        pool = self._shared.settings.pool
        if name != LOGITS:
            pooled = pool is not None and not of_tokens and array.ndim == 2 + len(pool)
            codec: Codec = self._shared.codec(logits=False, pooled=pooled)
            return codec
        codec = self._shared.codec(logits=True)
        if codec.top_k is not None:
            self._check_top_k(array, codec.top_k)
        return codec

    def _check_top_k(self, array: NDArray[Any], top_k: int) -> None:
        last = array.ndim - 1
        usual = 1 if array.ndim >= 4 else last
        axes = {usual if axis is None else axis % array.ndim for axis in self.wants.axes}
        if axes != {last}:
            message = f"keeps the largest of the last axis, and the classes of logits {list(array.shape)} have another"
            raise self._located("top_k", message, "Leave top_k out.")
        if array.shape[-1] < top_k:
            message = f"is {top_k}, and the teacher {self._teacher.name} has {array.shape[-1]} classes"
            raise self._located("top_k", message, "Write a smaller number, or leave top_k out.")

    def _located(self, path: str, message: str, advice: str) -> KDHooksError:
        error: KDHooksError = self._shared.locate(path, message, advice)
        return error


def _shapes(layout: Layout) -> dict[str, tuple[tuple[int, ...], bool]]:
    return {field.name: (field.shape, field.tokens) for field in layout.fields}


def _masks(value: Any) -> list[Any]:
    """The masks of tokens in a batch."""
    if not isinstance(value, Mapping):
        return []
    names = sorted(str(name) for name in value if str(name).endswith("attention_mask"))
    return [value[name] for name in names if len(getattr(value[name], "shape", ())) == 2]
