"""The two packages that a store stands on, imported here only, with the install line where they are missing."""

from __future__ import annotations

from kdhooks.errors import MissingPackageError

try:
    import xxhash as xxhash
except ImportError:
    raise MissingPackageError("xxhash", "the cache", "cache") from None
try:
    import lmdb as lmdb
except ImportError:
    raise MissingPackageError("lmdb", "the cache", "cache") from None
