"""A row and its checksum: xxh3 over key and payload, of which 4 bytes stand after the payload.

The key is covered too, so that a row that comes back under another key, by whatever damage, is found as well.
"""

from __future__ import annotations

from struct import Struct

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
