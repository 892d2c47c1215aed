"""Teacher outputs on disk, found again by the content of their inputs.

Nothing here knows a framework: arrays are NumPy's, and a backend turns its tensors into them. The parts:

- `keys`: what a row is found by; `fingerprints`: what a teacher is known by.
- `precision`, `top_k`, `tokens`, `codec`: outputs as bytes and back.
- `folder`, `mounts`, `environment`, `sealing`, `store`: bytes in LMDB, by many processes, with checksums.
- `teacher_store`: what a backend puts before its teacher.
- `maintenance`: look at a store, check it, write it anew.

No file of a store is ever executed or unpickled. A store that can't be used says why, once, and training
goes on without it. Names load on first use, so that importing this package imports neither lmdb nor xxhash.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdhooks.cache.codec import Codec, Layout
    from kdhooks.cache.fingerprints import Weight, fingerprint
    from kdhooks.cache.keys import Bits, id_keys, row_keys
    from kdhooks.cache.problems import StoreError
    from kdhooks.cache.store import Space, Store
    from kdhooks.cache.teacher_store import Lookup, TeacherStore
    from kdhooks.cache.tokens import Tokens
    from kdhooks.cache.top_k import TopK

_ROOMS = {
    "Bits": "keys",
    "Codec": "codec",
    "Layout": "codec",
    "Lookup": "teacher_store",
    "Space": "store",
    "Store": "store",
    "StoreError": "problems",
    "TeacherStore": "teacher_store",
    "Tokens": "tokens",
    "TopK": "top_k",
    "Weight": "fingerprints",
    "fingerprint": "fingerprints",
    "id_keys": "keys",
    "row_keys": "keys",
}

__all__ = [
    "Bits",
    "Codec",
    "Layout",
    "Lookup",
    "Space",
    "Store",
    "StoreError",
    "TeacherStore",
    "Tokens",
    "TopK",
    "Weight",
    "fingerprint",
    "id_keys",
    "row_keys",
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
