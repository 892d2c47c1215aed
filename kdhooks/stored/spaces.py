"""The rows of a store without the teacher that made them: which teacher's they are, and what is in them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdhooks.errors import DataError, UsageError
from kdhooks.stored.looks import LOGITS

if TYPE_CHECKING:
    from kdhooks.cache import Layout, TeacherStore
    from kdhooks.cache.maintenance import SpaceInfo

_LAYER = re.compile(r"(?P<layer>.*?)(?P<input>:input)?(\[.*\])?( \((?P<calls>first|mean|all)\)( #\d+)?)?", re.DOTALL)


class StoredSpace:
    """The rows of one teacher in a store, to be read only; opened when the first is asked for, in every process anew.

    Args:
        path: the store's folder.
        teacher: the name of the teacher's space, or how it begins; None where the store has one teacher.

    Attributes:
        name: the whole name.
        fields: what a row holds, by name: whether it is stored by tokens.

    Raises:
        StoreError: there is no store, or it can't be read.
        UsageError: no teacher, or several, are meant.
    """

    def __init__(self, path: str | os.PathLike[str], teacher: str | None = None) -> None:
        from kdhooks.cache import maintenance

        self.path = Path(path)
        found = _chosen(self.path, maintenance.info(self.path).spaces, teacher)
        self.name = found.name
        record = found.record or {}
        self.fields = {str(field["name"]): bool(field["tokens"]) for field in record.get("fields", ())}
        self._outputs: TeacherStore | None = None

    @property
    def layers(self) -> dict[str, str]:
        """The names in a row of what layers gave, by the layer as `on_after_compute_loss` takes it.

        Raises:
            UsageError: two of them are of one layer.
        """
        named: dict[str, str] = {}
        for name in (name for name in self.fields if name != LOGITS):
            layer = layer_of(name)
            if layer in named:
                raise UsageError(f"the store holds {named[layer]} and {name}, and teacher_features takes one a layer")
            named[layer] = name
        return named

    def read(self, keys: Sequence[bytes], samples: Sequence[Any]) -> Mapping[str, Any]:
        """The outputs of samples, by the names of a row: arrays, `kdhooks.cache.TopK` or `kdhooks.cache.Tokens`.

        Args:
            keys: of the samples.
            samples: their numbers, for errors.

        Raises:
            DataError: one of them is not there.
        """
        found = self._opened().lookup(keys)
        if len(found.missing):
            raise DataError(
                f"sample {samples[int(found.missing[0])]} is not in the store {self.path}, in {self.name}: it was "
                "stored with another content or another number, or not at all"
            )
        return found.rows

    @property
    def layout(self) -> Layout:
        """What a row consists of."""
        opened = self._opened()
        opened.lookup([])
        if opened.layout is None:  # it was described when this was made, and somebody has written the store anew since
            raise DataError(f"the store {self.path} no longer describes the rows of {self.name}")
        return opened.layout

    def _opened(self) -> TeacherStore:
        if self._outputs is None:
            from kdhooks.cache import Store, TeacherStore

            # one file is opened once in a process, and who trains there may want to write
            store = Store(self.path, read_only=not os.access(self.path, os.W_OK), strict=True)
            self._outputs = TeacherStore(store, self.name, {})
        return self._outputs

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_outputs": None}


def layer_of(name: str) -> str:
    """The layer of an output by its name in a row, as ``teacher_features`` names it.

    >>> layer_of("encoder.1['0']"), layer_of("head:input (mean)"), layer_of("(root)")
    ('encoder.1', 'head:input', '')
    """
    found = _LAYER.fullmatch(name)
    layer = name if found is None else found["layer"] + (found["input"] or "")
    return layer.replace("(root)", "", 1) if layer.startswith("(root)") else layer


def one_row(value: Any, place: int) -> Any:
    """One row of what `StoredSpace.read` gave, still as a batch.

    Args:
        value: an array, `kdhooks.cache.TopK` or `kdhooks.cache.Tokens`.
        place: which row.
    """
    from kdhooks.cache import Tokens

    if not isinstance(value, Tokens):
        return _cut(value, slice(place, place + 1))
    ends = value.lengths.cumsum()
    rows = slice(int(ends[place] - value.lengths[place]), int(ends[place]))
    return Tokens(_cut(value.values, rows), value.lengths[place : place + 1])


def _cut(value: Any, rows: slice) -> Any:
    from kdhooks.cache import TopK

    if isinstance(value, TopK):
        return TopK(value.values[rows], value.indices[rows], value.rest[rows], value.classes)
    return value[rows]


def teachers_in(spaces: Sequence[SpaceInfo]) -> list[SpaceInfo]:
    """Those spaces that hold rows of a teacher."""
    return [space for space in spaces if space.record is not None and space.record.get("fields")]


def described(space: SpaceInfo) -> str:
    """A space in one line."""
    about = (space.record or {}).get("about", {})
    text = ", ".join(str(about[key]) for key in ("teacher", "precision") if key in about)
    return f"{space.name} ({text}; {space.rows:,} rows)" if text else f"{space.name} ({space.rows:,} rows)"


def _chosen(path: Path, spaces: Sequence[SpaceInfo], teacher: str | None) -> SpaceInfo:
    there = teachers_in(spaces)
    listed = "".join(f"\n  {described(space)}" for space in there)
    meant = there if teacher is None else [space for space in there if space.name.startswith(teacher)]
    if not there:
        raise UsageError(f"the store {path} holds outputs of no teacher: kdhooks cache build fills it")
    if len(meant) == 1:
        return meant[0]
    if teacher is None:
        raise UsageError(f"the store {path} holds outputs of {len(there)} teachers: say which with teacher{listed}")
    count = "no" if not meant else f"{len(meant)}"
    raise UsageError(f"the store {path} holds {count} teachers whose name begins with {teacher!r}{listed}")
