"""What a stored row is found by: a hash of that sample's own input, or a number or name of the caller's.

A key knows nothing of the batch around its row: neither its size, nor its order, nor its padding. Hashes
(xxh3-128) have 16 bytes and keys of the caller's 9 or 17, so that one can never be taken for the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.cache.packages import xxhash
from kdhooks.errors import DataError, shown

_digest = xxhash.xxh3_128_digest
_seed = xxhash.xxh3_64_intdigest
_INT64 = 1 << 63
_WHOLE = {"bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))}


@dataclass(frozen=True)
class Bits:
    """An array of a dtype that NumPy does not have: its bits as whole numbers of that size, and the dtype's name.

    >>> import numpy as np
    >>> one = np.array([[0x3F80]], np.uint16)
    >>> row_keys(Bits(one, "bfloat16")) == row_keys(Bits(one, "float16"))
    False
    """

    array: NDArray[Any]
    dtype: str


@dataclass(frozen=True)
class _Leaf:
    """One array of an input: its path there, the array, its dtype's name, and the mask of its tokens if it has one."""

    path: str
    array: NDArray[Any]
    dtype: str
    mask: NDArray[np.bool_] | None = None


def row_keys(value: Any, mask: Any = None, *, padding_free: bool = False) -> list[bytes]:
    """The keys of a batch, one a row, from the bytes of each row with their dtype and shape.

    Whole numbers and truths of shape [N, T] beside a mask of that shape count at unmasked positions only, and of the
    mask what lies between the first and the last of them. So how long a row is padded to doesn't matter, nor what
    stands there. How many positions are padded before the first token does matter, since a model may
    count positions from there; not so where ``position_ids`` of that shape come along, which then are part of the key.
    An array of that shape that is not one of tokens needs `id_keys`. Numbers, texts and None are options that hold for
    every row.

    Args:
        value: an array [N, ...] or `Bits`, or a sequence or mapping of such; an array [1, ...] in a larger batch
            belongs to every row. In a mapping, ``attention_mask`` [N, T] is the mask of its neighbours, and
            ``decoder_attention_mask`` that of the arrays whose names begin with ``decoder_``.
        mask: [N, T] for token arrays that come without one.
        padding_free: say that the model's positions don't depend on padding before the first token, as in
            decoders that take them from the mask or know relative ones only; then it doesn't matter either.

    Raises:
        DataError: there is no array, or arrays with different numbers of rows, or of Python objects.
    """
    options: list[str] = []
    leaves: list[_Leaf] = []
    outer = _as_mask(mask)
    _collect("", value, outer, leaves, options)
    if not leaves:
        raise DataError("an input without arrays has no key: hand in sample_ids")
    rows = max(len(leaf.array) for leaf in leaves)
    for leaf in leaves:
        if len(leaf.array) not in (1, rows):
            place = f" {leaf.path!r}" if leaf.path else ""
            raise DataError(
                f"the input{place} has {len(leaf.array)} rows beside {rows}, so rows have no keys: hand in sample_ids"
            )
    columns, groups = [], dict[int, list[_Leaf]]()
    for leaf in leaves:
        if leaf.mask is None or len(leaf.mask) != rows:
            columns.append(_plain(leaf, options))
        else:
            groups.setdefault(id(leaf.mask), []).append(leaf)
    if outer is not None and id(outer) not in groups and len(outer) == rows:  # the model sees it all the same
        groups[id(outer)] = [_Leaf(".attention_mask", outer, "bool", outer)]
    columns += [_masked(group, group[0].mask, options, padding_free) for group in groups.values()]
    if len(columns) == 1:
        return columns[0] * (rows // len(columns[0]))
    wide = [column if len(column) == rows else column * rows for column in columns]
    return [_digest(b"".join(parts)) for parts in zip(*wide, strict=True)]


def id_keys(ids: Any) -> list[bytes]:
    """The keys of samples that the caller numbers or names; they can't be taken for hashes of inputs.

    Args:
        ids: whole numbers or texts, one a row; a sequence or an array [N].

    Raises:
        DataError: one of them is something else.
    """
    values = ids.tolist() if hasattr(ids, "tolist") else ids
    if not isinstance(values, Iterable) or isinstance(values, (str, bytes)):
        raise DataError(f"sample_ids must be a sequence of numbers or texts, not {shown(values)}")
    return [_id_key(value) for value in values]


def _id_key(value: Any) -> bytes:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        number = int(value) + _INT64
        if 0 <= number < 2 * _INT64:
            return b"\x00" + number.to_bytes(8, "big")  # rows lie in the order of their numbers
        return b"\x01" + _digest(str(int(value)).encode(), seed=1)
    if isinstance(value, (str, bytes)):
        return b"\x01" + _digest(value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass"))
    raise DataError(f"sample_ids must be whole numbers or texts, and one of them is {shown(value)}")


def _collect(path: str, value: Any, mask: NDArray[np.bool_] | None, leaves: list[_Leaf], options: list[str]) -> None:
    """Walk through an input; arrays become leaves, all else becomes text."""
    if value is None or isinstance(value, (bool, int, float, str)):
        options.append(f"{path}={value!r}")
    elif isinstance(value, Mapping):
        own = {str(name): entry for name, entry in value.items()}
        masks = {prefix: _as_mask(own.get(f"{prefix}attention_mask")) for prefix in ("", "decoder_")}
        for name in sorted(own):
            prefix = "decoder_" if name.startswith("decoder_") else ""
            found = masks[prefix] if masks[prefix] is not None else (None if prefix else mask)
            _collect(f"{path}.{name}", own[name], found, leaves, options)
    elif isinstance(value, Sequence) and not hasattr(value, "dtype"):
        for index, entry in enumerate(value):
            _collect(f"{path}.{index}", entry, mask, leaves, options)
    else:
        array = np.asarray(value.array if isinstance(value, Bits) else value)
        dtype = value.dtype if isinstance(value, Bits) else array.dtype.name
        if array.ndim == 0:
            options.append(f"{path}={dtype}:{array.tobytes().hex()}")
            return
        of_tokens = mask is not None and array.ndim == 2 and dtype in _WHOLE and _fits(array, mask)
        of_tokens = of_tokens or (path.endswith("attention_mask") and mask is not None and array.shape == mask.shape)
        leaves.append(_Leaf(path, array, dtype, mask if of_tokens else None))


def _fits(array: NDArray[Any], mask: NDArray[np.bool_]) -> bool:
    return array.shape == mask.shape or (len(array) == 1 and array.shape[1] == mask.shape[1])


def _as_mask(value: Any) -> NDArray[np.bool_] | None:
    """A mask of tokens [N, T], or None where it is of another kind: additive, or of pairs of tokens."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        return None
    truth: NDArray[np.bool_] = array != 0
    return truth if np.array_equal(truth, array) else None


def _plain(leaf: _Leaf, options: list[str]) -> list[bytes]:
    """One digest for each row of an array."""
    array = leaf.array
    about = f"{leaf.path}|{leaf.dtype}|{array.shape[1:]}|{'|'.join(options)}"
    if array.dtype.kind in "OSU":
        return _texts(array, about)
    if array.dtype.hasobject or array.dtype.names:
        raise DataError(f"an input of dtype {array.dtype} has no key: hand in sample_ids")
    seed = _seed(about.encode())
    if array.size == 0:
        return [_digest(b"", seed=seed)] * len(array)
    rows: Any = _little(array).reshape(len(array), -1).view(np.uint8)
    return [_digest(row, seed=seed) for row in rows]


def _texts(array: NDArray[Any], about: str) -> list[bytes]:
    """Digests of rows of texts, whatever the width of the widest in the batch."""
    seed = _seed(about.replace(array.dtype.name, "text", 1).encode())
    digests = []
    for row in array.reshape(len(array), -1).tolist():
        if not all(isinstance(text, (str, bytes)) for text in row):
            raise DataError("an input of Python objects has no key: hand in sample_ids")
        parts = [text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass") for text in row]
        digests.append(_digest(b"".join(len(part).to_bytes(8, "little") + part for part in parts), seed=seed))
    return digests


def _masked(group: list[_Leaf], mask: Any, options: list[str], padding_free: bool) -> list[bytes]:
    """One digest for each row of the token arrays that share a mask."""
    data = [leaf for leaf in group if not leaf.path.endswith("attention_mask")]
    about = [f"{leaf.path}|{leaf.dtype}" for leaf in data]
    seed = _seed("|".join(["tokens", *about, *options]).encode())
    arrays = [np.broadcast_to(_little(leaf.array), mask.shape) for leaf in data]
    positioned = padding_free or any(leaf.path.endswith("position_ids") for leaf in data)
    keys = []
    for row, kept in enumerate(mask):
        places = np.flatnonzero(kept)
        # A gap between tokens moves the later ones, so it counts; what lies after the last token does not.
        first = int(places[0]) if len(places) else 0
        span = kept[first : places[-1] + 1] if len(places) else places
        before = 0 if positioned else first
        pattern = before.to_bytes(8, "little") + len(span).to_bytes(8, "little") + np.packbits(span).tobytes()
        keys.append(_digest(pattern + b"".join(array[row, places].tobytes() for array in arrays), seed=seed))
    return keys


def _little(array: NDArray[Any]) -> NDArray[Any]:
    """The array in C order and little-endian, so that equal numbers have equal bytes."""
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and not np.little_endian):
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array)
