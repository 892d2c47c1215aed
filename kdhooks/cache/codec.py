"""A teacher's outputs as rows of bytes and back.

The layout stands once in a space's record, so a row holds nothing but numbers: first one record with all
outputs of the whole sample, then one record for each of its tokens. Whatever is encoded here is also
decoded here before anybody uses it, so a computed row and a stored one are the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.cache import precision
from kdhooks.cache.precision import DTYPES, Bytes, Stored
from kdhooks.cache.sealing import split
from kdhooks.cache.tokens import Tokens
from kdhooks.cache.top_k import TopK
from kdhooks.errors import DataError, UsageError, shown

Outputs = dict[str, Any]
"""Outputs by name: float32 arrays [N, ...], `TopK`, or `Tokens` of either."""


@dataclass(frozen=True)
class Codec:
    """How one output is stored.

    Attributes:
        dtype: float32, float16, bfloat16, or int8 with a scale for each row (each token where it has tokens).
        top_k: keep so many of the largest logits (last axis) and the mass of the rest; None keeps all.
        pool: average the axes after the channels to this size, ``(1, 1)`` for a mean over a map; None leaves them.

    Raises:
        UsageError: a value has no meaning.
    """

    dtype: Stored = "float32"
    top_k: int | None = None
    pool: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise UsageError(f"dtype must be one of {', '.join(DTYPES)}, not {shown(self.dtype)}")
        if self.top_k is not None and (isinstance(self.top_k, bool) or self.top_k < 1):
            raise UsageError(f"top_k must be a whole number of at least 1, not {shown(self.top_k)}")
        if self.pool is not None and (not self.pool or min(self.pool) < 1):
            raise UsageError("pool must be sizes of at least 1, as in (1, 1)")

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a record in JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Field:
    """One output in a row: its name, its codec, its shape without rows and tokens, whether it has tokens."""

    name: str
    codec: Codec
    shape: tuple[int, ...]
    tokens: bool = False

    @cached_property
    def bytes(self) -> int:
        """How many bytes a record takes."""
        if self.codec.top_k is None:
            return precision.record_bytes(self.codec.dtype, self.shape)
        lead = math.prod(self.shape[:-1])
        return self._value_bytes() + lead * (self.codec.top_k * self._index.itemsize + 4)

    def encode(self, array: NDArray[Any]) -> Bytes:
        """Records [R, bytes] of values [R, ...]."""
        array = _pooled(_floats(self.name, array), self.codec.pool)
        if array.shape[1:] != self.shape:
            raise DataError(
                f"the output {self.name!r} has rows of shape {array.shape[1:]}, and the stored ones {self.shape}"
            )
        if self.codec.top_k is None:
            return precision.encode(array, self.codec.dtype)
        kept, count = TopK.of(array, self.codec.top_k), len(array)
        indices = np.ascontiguousarray(kept.indices.reshape(count, -1).astype(self._index))
        rest = np.ascontiguousarray(kept.rest.reshape(count, -1).astype("<f4"))
        parts = [precision.encode(kept.values, self.codec.dtype), _raw(indices), _raw(rest)]
        return np.concatenate(parts, axis=1)

    def decode(self, data: Bytes) -> NDArray[np.float32] | TopK:
        """Values of records [R, bytes]."""
        k = self.codec.top_k
        if k is None:
            return precision.decode(data, self.codec.dtype, self.shape)
        count, (lead, begin, middle) = len(data), self._places
        values = precision.decode(data[:, :begin], self.codec.dtype, (*lead, k))
        indices = precision.viewed(data[:, begin:middle], self._index).astype(np.int64)
        rest = precision.viewed(data[:, middle:], "<f4").astype(np.float32)
        return TopK(values, indices.reshape(count, *lead, k), rest.reshape(count, *lead), self.shape[-1])

    @cached_property
    def _places(self) -> tuple[tuple[int, ...], int, int]:
        """The shape before the classes, and where indices and the rest's mass begin in a record with top-k."""
        lead, begin = self.shape[:-1], self._value_bytes()
        return lead, begin, begin + math.prod(lead) * (self.codec.top_k or 0) * self._index.itemsize

    def _value_bytes(self) -> int:
        return precision.record_bytes(self.codec.dtype, (*self.shape[:-1], self.codec.top_k or 0))

    @cached_property
    def _index(self) -> np.dtype[Any]:
        return np.dtype("<u2" if self.shape[-1] <= 1 << 16 else "<u4")


class Layout:
    """What a row of a space consists of.

    Args:
        fields: the outputs, in their order within a row.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self._whole = [field for field in self.fields if not field.tokens]
        self._tokens = [field for field in self.fields if field.tokens]
        self._whole_bytes = sum(field.bytes for field in self._whole)
        self._token_bytes = sum(field.bytes for field in self._tokens)

    @classmethod
    def of(cls, codecs: Mapping[str, Codec], outputs: Mapping[str, Any]) -> Layout:
        """The layout of a teacher's first outputs.

        Args:
            codecs: by the output's name.
            outputs: arrays [N, ...], or `Tokens`.

        Raises:
            UsageError: the names differ, or there are fewer classes than ``top_k``.
        """
        if sorted(codecs) != sorted(outputs):
            raise UsageError(f"the teacher gave {sorted(outputs)}, and codecs are for {sorted(codecs)}")
        fields = []
        for name, codec in sorted(codecs.items()):
            value = outputs[name]
            array = _pooled(_floats(name, value.values if isinstance(value, Tokens) else value), codec.pool)
            shape = tuple(int(size) for size in array.shape[1:])
            if codec.top_k is not None and (not shape or shape[-1] < codec.top_k):
                raise UsageError(f"top_k is {codec.top_k}, and the output {name!r} has rows of shape {shape}")
            fields.append(Field(name, codec, shape, isinstance(value, Tokens)))
        return cls(fields)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Layout:
        """Read back what `to_dict` wrote.

        Raises:
            DataError: it is something else.
        """
        try:
            fields = []
            for entry in said["fields"]:
                codec = dict(entry["codec"])
                codec["pool"] = tuple(codec["pool"]) if codec["pool"] else None
                shape = tuple(int(size) for size in entry["shape"])
                fields.append(Field(str(entry["name"]), Codec(**codec), shape, bool(entry["tokens"])))
        except (KeyError, TypeError, ValueError, UsageError):
            raise DataError("the record of a space does not describe its rows") from None
        return cls(fields)

    def to_dict(self) -> dict[str, Any]:
        """As plain values, for a record in JSON."""
        return {"fields": [asdict(field) for field in self.fields]}

    @property
    def row_bytes(self) -> tuple[int, int]:
        """What a row takes: so many bytes, and so many more for each token."""
        return self._whole_bytes, self._token_bytes

    def encode(self, outputs: Mapping[str, Any]) -> list[bytes]:
        """Rows of a teacher's outputs.

        Args:
            outputs: arrays [N, ...], or `Tokens`; the same names and shapes as the layout's.

        Raises:
            DataError: they differ, or outputs disagree about rows or tokens.
        """
        if sorted(outputs) != sorted(field.name for field in self.fields):
            raise DataError(f"the teacher gave {sorted(outputs)}, and rows hold {[f.name for f in self.fields]}")
        whole, lengths = [], None
        for field in self._whole:
            value = outputs[field.name]
            if isinstance(value, Tokens):
                raise DataError(f"the output {field.name!r} has tokens, and the stored rows have none")
            whole.append(field.encode(np.asarray(value)))
        records = []
        for field in self._tokens:
            value = outputs[field.name]
            if not isinstance(value, Tokens) or (lengths is not None and not np.array_equal(lengths, value.lengths)):
                raise DataError(f"the output {field.name!r} does not have the tokens of the stored rows")
            lengths = value.lengths
            records.append(field.encode(np.asarray(value.values)))
        heads = _cut(_beside(whole), None)
        if lengths is None:
            return heads
        tails = _cut(_beside(records), lengths)
        if whole and len(heads) != len(tails):
            raise DataError(f"outputs of {len(heads)} rows and of {len(tails)} rows don't belong together")
        return [head + tail for head, tail in zip(heads, tails, strict=True)] if whole else tails

    def decode(self, rows: Sequence[bytes] | Bytes) -> Outputs:
        """Outputs of stored rows, in their order.

        Args:
            rows: one by one, or as a table [N, bytes] where all are of one size.

        Raises:
            DataError: a row has another length than the layout's.
        """
        head, step = self.row_bytes
        if isinstance(rows, np.ndarray):
            if not self._tokens and rows.shape[1] == head:
                return _read(self._whole, rows)
            rows = split(rows)
        lengths = None
        if self._tokens:
            sizes = np.fromiter((len(row) - head for row in rows), np.int64, len(rows))
            if (sizes < 0).any() or (step and (sizes % step).any()):
                raise DataError("a stored row is not of its space's layout")
            lengths = sizes // step if step else sizes
        elif any(len(row) != head for row in rows):
            raise DataError("a stored row is not of its space's layout")
        found: Outputs = {}
        if self._whole:
            parts = rows if lengths is None else [row[:head] for row in rows]
            found |= _read(self._whole, _table(parts, head))
        if lengths is not None:
            parts = [row[head:] for row in rows] if head else rows
            for name, value in _read(self._tokens, _table(parts, step, int(lengths.sum()))).items():
                found[name] = Tokens(value, lengths)
        return {field.name: found[field.name] for field in self.fields}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.fields)


def _floats(name: str, array: NDArray[Any]) -> NDArray[Any]:
    array = np.asarray(array)
    if array.dtype.kind != "f" and array.dtype.name != "bfloat16":
        raise DataError(f"the output {name!r} is of dtype {array.dtype.name}, and only floats are stored")
    return array


def _pooled(array: NDArray[Any], sizes: tuple[int, ...] | None) -> NDArray[Any]:
    """Average the last axes to sizes; bins as even as they can be, overlapping where sizes don't divide."""
    if sizes is None:
        return array
    first = array.ndim - len(sizes)
    if first < 1:
        raise UsageError(f"pool has {len(sizes)} sizes, and an output has rows of shape {array.shape[1:]}")
    for axis, size in enumerate(sizes, first):
        length = array.shape[axis]
        bins = [array.take(range(i * length // size, -(-(i + 1) * length // size)), axis) for i in range(size)]
        array = np.stack([one.mean(axis=axis, dtype=np.float64) for one in bins], axis=axis)
    return array


def _beside(parts: Sequence[Bytes]) -> Bytes:
    if not parts:
        return np.zeros((0, 0), np.uint8)
    if len({len(part) for part in parts}) > 1:
        raise DataError(f"outputs of {sorted({len(part) for part in parts})} rows don't belong together")
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


def _cut(records: Bytes, lengths: NDArray[np.int64] | None) -> list[bytes]:
    """One record a row, or so many as the lengths say."""
    data, size = np.ascontiguousarray(records).tobytes(), records.shape[1]
    if lengths is None:
        return [data[size * row : size * (row + 1)] for row in range(len(records))]
    if int(lengths.sum()) != len(records):
        raise DataError(f"{len(records)} tokens do not make rows of {int(lengths.sum())}")
    ends = np.cumsum(lengths) * size
    return [data[end - size * length : end] for end, length in zip(ends.tolist(), lengths.tolist(), strict=True)]


def _table(rows: Sequence[bytes], size: int, count: int | None = None) -> Bytes:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows) if count is None else count, size)


def _read(fields: Sequence[Field], table: Bytes) -> Outputs:
    """Records that lie one below the other, each field's columns as values."""
    found, begin = {}, 0
    for field in fields:
        found[field.name] = field.decode(table[:, begin : begin + field.bytes])
        begin += field.bytes
    return found


def _raw(rows: NDArray[Any]) -> Bytes:
    return rows.view(np.uint8) if rows.size else np.zeros((len(rows), 0), np.uint8)
