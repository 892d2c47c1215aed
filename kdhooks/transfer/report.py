"""What a transfer of weights did, tensor by tensor, for people and for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Shape = tuple[int, ...]
Status = Literal["transferred", "resized", "skipped", "initial", "unused"]

STATUSES: dict[Status, str] = {
    "transferred": "transferred",
    "resized": "resized",
    "skipped": "skipped",
    "initial": "left at initialisation",
    "unused": "unused in the source",
}
"""What may become of a tensor, and how a person reads it."""


@dataclass(frozen=True)
class Entry:
    """What became of one tensor.

    Attributes:
        status: a key of `STATUSES`. Skipped tensors have a partner in the source and keep their own values all the
            same; initial ones have none; unused ones are the source's.
        name: the student's, or the source's of an unused one.
        source: the name in the source, or None.
        shape: the student's; None of an unused one.
        source_shape: in the source, or None.
        why: how it was matched or resized, or why it was not; may be empty.
    """

    status: Status
    name: str
    source: str | None = None
    shape: Shape | None = None
    source_shape: Shape | None = None
    why: str = ""

    @property
    def values(self) -> int:
        """How many numbers the tensor has."""
        return math.prod(self.shape if self.shape is not None else self.source_shape or ())


@dataclass(frozen=True)
class TransferReport:
    """What a transfer did; ``print(report)`` shows a table, ``report.text(everything=True)`` all rows of it.

    Attributes:
        source: what the weights came from, in words.
        model: the student's class.
        entries: the student's tensors in their order, then what is unused.
        notes: what a user may want to know besides: rules that renamed nothing, prefixes that fit equally well.

    Example:
        >>> entry = Entry("transferred", "fc.weight", "head.weight", (10, 4), (10, 4), "renamed")
        >>> report = TransferReport("resnet.safetensors", "ResNet", (entry,))
        >>> report.transferred, report.share
        (('fc.weight',), 1.0)
    """

    source: str
    model: str
    entries: tuple[Entry, ...]
    notes: tuple[str, ...] = ()

    def of(self, status: Status) -> tuple[Entry, ...]:
        """The entries of a status."""
        return tuple(entry for entry in self.entries if entry.status == status)

    def _names(self, status: Status) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.of(status))

    @property
    def transferred(self) -> tuple[str, ...]:
        """The student's tensors that have the source's values as they are."""
        return self._names("transferred")

    @property
    def resized(self) -> tuple[str, ...]:
        """The student's tensors whose values were made from those of the source."""
        return self._names("resized")

    @property
    def skipped(self) -> tuple[str, ...]:
        """The student's tensors that have a partner and keep their own values."""
        return self._names("skipped")

    @property
    def initial(self) -> tuple[str, ...]:
        """The student's tensors without a partner."""
        return self._names("initial")

    @property
    def unused(self) -> tuple[str, ...]:
        """The source's tensors of which nothing was taken."""
        return self._names("unused")

    @property
    def share(self) -> float:
        """The part of the student's numbers that comes from the source."""
        own = [entry for entry in self.entries if entry.status != "unused"]
        taken = sum(entry.values for entry in own if entry.status in ("transferred", "resized"))
        return taken / max(sum(entry.values for entry in own), 1)

    def counts(self) -> dict[str, int]:
        """How many tensors have each status."""
        return {status: len(self.of(status)) for status in STATUSES}

    def to_dict(self) -> dict[str, Any]:
        """Plain data: what JSON holds."""
        entries = [asdict(entry) for entry in self.entries]
        for entry in entries:
            entry |= {key: None if entry[key] is None else list(entry[key]) for key in ("shape", "source_shape")}
        head = {"source": self.source, "model": self.model, "counts": self.counts(), "share": self.share}
        return {**head, "entries": entries, "notes": list(self.notes)}

    def to_json(self, indent: int | None = 2) -> str:
        """The same as a text."""
        return json.dumps(self.to_dict(), indent=indent)

    def text(self, *, everything: bool = False) -> str:
        """A table; where not `everything` is asked for, of what needs no look only the first rows, and how many more.

        Tensors that were transferred under their own names have no row then.
        """
        return "\n".join(self._lines(everything))

    def __str__(self) -> str:
        return self.text()

    def _lines(self, everything: bool) -> Iterator[str]:
        values = sum(entry.values for entry in self.entries if entry.status != "unused")
        yield f"weights of {self.source} in {self.model}: {100 * self.share:.1f}% of {values:,} numbers"
        counts = self.counts()
        yield ", ".join(f"{counts[status]} {words}" for status, words in STATUSES.items())
        shown = [entry for entry in self.entries if everything or entry.status != "transferred" or entry.why]
        rows, more = (shown, []) if everything else _first(shown)
        if rows:
            yield from _table([_row(entry) for entry in rows])
        yield from more
        yield from self.notes


_ROWS = 12
"""Of tensors that are transferred, left at initialisation or unused: the others are what a person looks for."""


def _first(entries: Sequence[Entry]) -> tuple[list[Entry], list[str]]:
    """What is shown without being asked for, and a line about the rest."""
    rows, left = [], dict.fromkeys(STATUSES, 0)
    seen = dict.fromkeys(STATUSES, 0)
    for entry in entries:
        seen[entry.status] += 1
        if seen[entry.status] <= _ROWS or entry.status in ("resized", "skipped"):
            rows.append(entry)
        else:
            left[entry.status] += 1
    told = ", ".join(f"{count} more {STATUSES[status]}" for status, count in left.items() if count)
    return rows, [f"and {told}: report.text(everything=True)"] if told else []


_HEAD = ("tensor", "shape", "from", "its shape", "what happened")


def _row(entry: Entry) -> tuple[str, ...]:
    words = STATUSES[entry.status] + (f": {entry.why}" if entry.why else "")
    if entry.status == "unused":
        return ("", "", entry.name, _shape(entry.source_shape), words)
    origin = entry.source if entry.source != entry.name else "the same"
    return (entry.name, _shape(entry.shape), origin or "", _shape(entry.source_shape), words)


def _shape(shape: Shape | None) -> str:
    return "" if shape is None else str(list(shape))


def _table(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in (_HEAD, *rows)) for column in range(len(_HEAD))]
    for row in (_HEAD, *rows):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
