"""A row and its checksum: 4 bytes after the payload, made of key and payload.

The key is covered too, so that a row that comes back under another key, by whatever damage, is found as well.

The checksum is a multilinear hash (strongly universal: Carter and Wegman 1981; Lemire and Kaser, "Strongly universal
string hashing is fast", 2014): words of 32 bits times fixed random numbers of 64, of whose sum the upper half
stays. Damage of any kind goes unseen in one of 2^32 cases, and NumPy sums a whole batch at once. What stands for a
payload of more than 512 bytes is its xxh3-64. `docs/store.md` has the formula.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.cache.packages import xxhash

CHECKSUM_BYTES = 4
SHORT = 512

_KEY_WORDS, _BODY_WORDS = 128, SHORT // 4  # LMDB's keys have at most 511 bytes
_digest = xxhash.xxh3_64_digest
_numbers = np.array(
    [xxhash.xxh3_64_intdigest(number.to_bytes(4, "little")) for number in range(3 + _KEY_WORDS + _BODY_WORDS)],
    np.uint64,
)
_ALWAYS, _OF_KEY_LENGTH, _OF_LENGTH = (int(number) for number in _numbers[:3])
_OF_KEY = _numbers[3 : 3 + _KEY_WORDS]
_OF_BODY = _numbers[3 + _KEY_WORDS :]


def seal_many(keys: Sequence[bytes], payloads: Sequence[bytes]) -> list[bytes]:
    """Payloads with their checksums, as they are stored."""
    sums = _checksums(keys, payloads).tobytes()
    return [payload + sums[4 * at : 4 * at + 4] for at, payload in enumerate(payloads)]


def unsealed_table(keys: Sequence[bytes], stored: Sequence[bytes | None]) -> NDArray[np.uint8] | None:
    """The payloads of a batch, [N, bytes], where all rows are there, of one size, and undamaged; None elsewhere.

    Rows of several sizes that happen to fill the table are cut in wrong places, and no checksum is right then.
    """
    rows: Any = stored
    count, size = len(rows), len(rows[0] or b"") if rows else 0
    try:
        data, joined_keys = b"".join(rows), b"".join(keys)
    except TypeError:  # one is absent
        return None
    if size < CHECKSUM_BYTES or len(data) != count * size or len(joined_keys) != count * len(keys[0]):
        return None
    if size % 4 or size > SHORT or len(keys[0]) % 4:
        table = np.frombuffer(data, np.uint8).reshape(count, size)
        sums = _of_table(np.frombuffer(joined_keys, np.uint8).reshape(count, -1), table[:, :-CHECKSUM_BYTES])
        return table[:, :-CHECKSUM_BYTES] if sums.tobytes() == table[:, -CHECKSUM_BYTES:].tobytes() else None
    # The same in fewer steps, since each of them is felt in a read of small rows.
    words = np.frombuffer(data, "<u4").reshape(count, size // 4)
    of_keys = np.frombuffer(joined_keys, "<u4").reshape(count, -1)
    more, of_key, of_row = _numbers_for(of_keys.shape[1], size // 4)
    found = words.astype(np.uint64).dot(of_row)
    found += of_keys.astype(np.uint64).dot(of_key)
    found += more
    if _upper(found).tobytes() != words[:, -1].tobytes():
        return None
    return words.view(np.uint8)[:, :-CHECKSUM_BYTES]


def unseal_many(keys: Sequence[bytes], stored: Sequence[bytes | None]) -> list[bytes | None]:
    """The payloads of a batch; None where there is none, or a byte of key, payload or checksum is not what it was."""
    payloads = [None if row is None else row[:-CHECKSUM_BYTES] for row in stored]
    there = [at for at, row in enumerate(stored) if row is not None]
    rows: list[Any] = [payloads[at] for at in there]
    sums = _checksums([keys[at] for at in there], rows).tobytes()
    for place, at in enumerate(there):
        row: Any = stored[at]
        if row[-CHECKSUM_BYTES:] != sums[4 * place : 4 * place + 4]:
            payloads[at] = None
    return payloads


def undamaged(rows: Sequence[tuple[bytes, bytes]]) -> list[bool]:
    """Which of some rows as they are stored, with their keys, are what they were."""
    keys, stored = [key for key, _ in rows], [row for _, row in rows]
    if unsealed_table(keys, stored) is not None:
        return [True] * len(rows)
    return [row is not None for row in unseal_many(keys, stored)]


def seal(key: bytes, payload: bytes) -> bytes:
    """One payload with its checksum."""
    return seal_many([key], [payload])[0]


def unseal(key: bytes, stored: bytes) -> bytes | None:
    """One payload, or None where it is damaged."""
    return unseal_many([key], [stored])[0]


def split(table: NDArray[np.uint8]) -> list[bytes]:
    """The rows of a table one by one."""
    if not table.size:
        return [b""] * len(table)
    rows: list[bytes] = np.ascontiguousarray(table).view(f"V{table.shape[1]}").ravel().tolist()
    return rows


def _checksums(keys: Sequence[bytes], payloads: Sequence[bytes]) -> NDArray[Any]:
    """Checksums [N] of rows of any lengths."""
    bodies = [payload if len(payload) <= SHORT else _digest(payload) for payload in payloads]
    sums = _sums(_padded(keys), _padded(bodies), _ALWAYS, _OF_BODY)
    sums += np.fromiter(map(len, keys), np.uint64, len(keys)) * np.uint64(_OF_KEY_LENGTH)
    sums += np.fromiter(map(len, payloads), np.uint64, len(keys)) * np.uint64(_OF_LENGTH)
    return _upper(sums)


def _of_table(keys: NDArray[np.uint8], payloads: NDArray[np.uint8]) -> NDArray[Any]:
    """Checksums [N] of rows of one size under keys of one size."""
    size = payloads.shape[1]
    bodies: NDArray[np.uint8] = payloads
    if size > SHORT:
        rows: Any = payloads
        bodies = np.frombuffer(b"".join(map(_digest, rows)), np.uint8).reshape(len(keys), 8)
    return _upper(_sums(keys, bodies, _constant(keys.shape[1], size), _OF_BODY))


def _constant(of_key: int, of_payload: int) -> int:
    return (_ALWAYS + of_key * _OF_KEY_LENGTH + of_payload * _OF_LENGTH) % (1 << 64)


@lru_cache(64)
def _numbers_for(key_words: int, row_words: int) -> tuple[np.uint64, NDArray[np.uint64], NDArray[np.uint64]]:
    """The constant, and the numbers for the words of a key and of a row with its checksum, which counts nothing."""
    constant = _constant(4 * key_words, 4 * row_words - CHECKSUM_BYTES)
    return np.uint64(constant), _OF_KEY[:key_words], np.append(_OF_BODY[: row_words - 1], np.uint64(0))


def _sums(
    keys: NDArray[np.uint8], bodies: NDArray[np.uint8], more: int, numbers: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    of_keys, of_bodies = _words(keys), _words(bodies)
    sums: NDArray[np.uint64] = of_keys @ _OF_KEY[: of_keys.shape[1]]
    sums += of_bodies @ numbers[: of_bodies.shape[1]]
    sums += np.uint64(more)
    return sums


def _words(rows: NDArray[np.uint8]) -> NDArray[Any]:
    """Rows of bytes as little-endian words of 32 bits, [N, W], filled up with zeros."""
    if rows.shape[1] % 4:
        wide = np.zeros((len(rows), rows.shape[1] // 4 * 4 + 4), np.uint8)
        wide[:, : rows.shape[1]] = rows
        rows = wide
    return rows.view("<u4")


def _padded(rows: Sequence[bytes]) -> NDArray[np.uint8]:
    width = max(map(len, rows), default=0)
    return np.frombuffer(b"".join([row.ljust(width, b"\0") for row in rows]), np.uint8).reshape(len(rows), width)


def _upper(sums: NDArray[np.uint64]) -> NDArray[Any]:
    return sums.astype("<u8", copy=False).view("<u4")[1::2]
