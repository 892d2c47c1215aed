"""What a backend puts before its teacher: rows that are there come back, and only the others are computed.

>>> import tempfile
>>> import numpy as np
>>> def teacher(images):
...     return {"logits": images.sum(axis=2)}
>>> images = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
>>> with tempfile.TemporaryDirectory() as folder, Store(folder) as store:
...     outputs = TeacherStore(store, "its fingerprint", {"logits": Codec("float16")})
...     for epoch in range(2):
...         found = outputs.lookup(row_keys(images))
...         said = found.complete(teacher(images[found.missing])) if len(found.missing) else found.rows
...         print(len(found.missing), said["logits"].tolist()[0])
4 [3.0, 12.0]
0 [3.0, 12.0]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.cache.codec import Codec, Layout, Outputs
from kdhooks.cache.keys import row_keys as row_keys
from kdhooks.cache.store import Store
from kdhooks.errors import DataError


@dataclass
class Lookup:
    """What was found for a batch.

    Attributes:
        found: positions in the batch whose rows are there, [F].
        missing: positions whose rows have to be computed, [M]; of rows with equal keys only the first.
    """

    found: NDArray[np.intp]
    missing: NDArray[np.intp]
    _owner: TeacherStore = field(repr=False)
    _keys: Sequence[bytes] = field(repr=False)
    _payloads: list[bytes | None] | NDArray[np.uint8] = field(repr=False)

    @property
    def rows(self) -> Outputs:
        """The outputs of the rows that are there, in the order of `found`; empty where none is."""
        if isinstance(self._payloads, np.ndarray):
            return self._owner.decode(self._payloads)
        kept = [payload for payload in self._payloads if payload is not None]
        return self._owner.decode(kept) if kept else {}

    def complete(self, outputs: Mapping[str, Any]) -> Outputs:
        """Store what was computed for `missing`; returns the whole batch, in its order.

        Args:
            outputs: by name, arrays [M, ...] or `Tokens`, in the order of `missing`.

        Raises:
            DataError: rows or shapes are not those of `missing` and of what is stored.
        """
        keys = [self._keys[place] for place in self.missing]
        fresh = dict(zip(keys, self._owner.encode(keys, outputs), strict=True))
        if isinstance(self._payloads, np.ndarray):
            return self.rows
        pairs = zip(self._keys, self._payloads, strict=True)
        return self._owner.decode([fresh[key] if payload is None else payload for key, payload in pairs])


class TeacherStore:
    """The outputs of one teacher in a store.

    Whatever it returns went through the codec, also what was computed a moment ago and also where the store
    is full or not in use: the numbers of a cold and of a warm run are the same.

    Args:
        store: any number of teachers may share one.
        fingerprint: from `kdhooks.cache.fingerprint`, with these codecs.
        codecs: how each output is stored, by its name.
        about: what `kdhooks cache info` shows of this teacher, as text.

    Attributes:
        layout: what a row consists of; None until the first row of this teacher was ever computed.
        space: the rows as bytes, with counts of hits, misses and bad rows.
    """

    def __init__(
        self, store: Store, fingerprint: str, codecs: Mapping[str, Codec], *, about: Mapping[str, str] | None = None
    ) -> None:
        self.store, self.space, self.codecs = store, store.space(fingerprint), dict(codecs)
        self.layout: Layout | None = None
        self._about = dict(about or {})

    def lookup(self, keys: Sequence[bytes]) -> Lookup:
        """Find the rows of a batch.

        Args:
            keys: from `row_keys` or `id_keys`, one a row.
        """
        payloads: list[bytes | None] | NDArray[np.uint8] = [None] * len(keys)
        if self._known() is not None:
            payloads = self.space.get_table(keys)
        if not isinstance(payloads, list) or None not in payloads:
            return Lookup(np.arange(len(keys)), np.zeros(0, np.intp), self, keys, payloads)
        first: dict[bytes, int] = {}
        for place, (key, payload) in enumerate(zip(keys, payloads, strict=True)):
            if payload is None:
                first.setdefault(key, place)
        found = [place for place, payload in enumerate(payloads) if payload is not None]
        return Lookup(np.array(found, np.intp), np.array([*first.values()], np.intp), self, keys, payloads)

    def store_rows(self, keys: Sequence[bytes], outputs: Mapping[str, Any]) -> Outputs:
        """Store computed rows; returns them as a later lookup will.

        Args:
            keys: one a row.
            outputs: by name, arrays [N, ...] or `Tokens`.
        """
        return self.decode(self.encode(keys, outputs))

    def serve(self, keys: Sequence[bytes], teacher: Callable[[NDArray[np.intp]], Mapping[str, Any]]) -> Outputs:
        """The outputs of a batch, computed where they are missing.

        Args:
            keys: one a row.
            teacher: called with the positions that are missing, if any are; returns their outputs.
        """
        found = self.lookup(keys)
        return found.complete(teacher(found.missing)) if len(found.missing) else found.rows

    def encode(self, keys: Sequence[bytes], outputs: Mapping[str, Any]) -> list[bytes]:
        """Store computed rows; returns their bytes."""
        layout = self._known() or self._first(outputs)
        rows = layout.encode(outputs)
        if len(rows) != len(keys):
            raise DataError(f"the teacher gave {len(rows)} rows for {len(keys)}")
        self.space.put_many(keys, rows)
        return rows

    def decode(self, rows: Sequence[bytes] | NDArray[np.uint8]) -> Outputs:
        """The outputs of rows of bytes, one by one or as a table [N, bytes]."""
        layout = self._known()
        if layout is None:
            raise DataError("nothing is stored of this teacher yet")
        return layout.decode(rows)

    def _known(self) -> Layout | None:
        """The layout, from the space's record where another process was first."""
        if self.layout is None:
            record = self.space.record()
            if record is not None:
                self.layout = Layout.from_dict(record)
        return self.layout

    def _first(self, outputs: Mapping[str, Any]) -> Layout:
        """Describe the space by the teacher's first outputs."""
        record = {"about": self._about, **Layout.of(self.codecs, outputs).to_dict()}
        self.layout = Layout.from_dict(self.space.describe(record))
        return self.layout
