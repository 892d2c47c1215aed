"""A row and its checksum: xxh3 over key and payload, of which 4 bytes stand after the payload.

The key is covered too, so that a row that comes back under another key, by whatever damage, is found as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct
from typing import Any

from kdhooks.cache.packages import xxhash

CHECKSUM_BYTES = 4
_pack = Struct("<I").pack
_digest = xxhash.xxh3_64_intdigest


def seal(key: bytes, payload: bytes) -> bytes:
    """The payload with its checksum, as it is stored."""
    return payload + _pack(_digest(key + payload) & 0xFFFFFFFF)


def unseal(key: bytes, stored: bytes) -> bytes | None:
    """The payload, or None where a byte of it, of the key or of the checksum is not what it was."""
    payload = stored[:-CHECKSUM_BYTES]
    if stored[-CHECKSUM_BYTES:] == _pack(_digest(key + payload) & 0xFFFFFFFF):
        return payload
    return None


def unseal_many(keys: Sequence[bytes], stored: Sequence[bytes | None]) -> list[bytes | None]:
    """`unseal` of a batch in which no row is absent; in one expression, since a call a row would cost a tenth."""
    rows: Any = stored
    return [
        payload if row[-4:] == _pack(_digest(key + payload) & 0xFFFFFFFF) else None
        for key, row in zip(keys, rows, strict=True)
        for payload in (row[:-4],)
    ]
