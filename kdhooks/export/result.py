"""What is known of a file after it was written and loaded again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Exported:
    """A file, or the folder of a SavedModel, that was loaded again and gives what the model gives.

    Attributes:
        path: where it is.
        format: its name in `kdhooks.export.FORMATS`.
        difference: the largest absolute difference of any output to the model's own; of the weights where nothing ran.
        tolerance: the largest that was allowed, for outputs of at most 1; that much of the largest for larger ones.
        rows: batch sizes that were compared; empty where the weights were.
        bytes: of the file, or of all in the folder.
        seconds: that writing took.
        loading_seconds: that loading took.
        facts: what else is to be known: ``opset``, ``inputs``, ``outputs``, ``lengths`` that token inputs had.
    """

    path: Path
    format: str
    difference: float
    tolerance: float
    rows: tuple[int, ...]
    bytes: int
    seconds: float
    loading_seconds: float
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can write it."""
        found = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {**found, "path": str(self.path), "rows": list(self.rows), "facts": dict(self.facts)}

    def text(self) -> str:
        """One line.

        >>> one = Exported(Path("a.onnx"), "onnx", 2e-7, 1e-5, (4, 1), 2048, 1.5, 0.1, {"opset": 18})
        >>> print(one)
        a.onnx: 2.0 KiB, differs by at most 2.0e-07 in batches of 4 and 1, written in 1.5 s, loaded in 0.1 s (opset 18)
        """
        more = f" (opset {self.facts['opset']})" if "opset" in self.facts else ""
        where = f"in {self._batches()}" if self.rows else "in its weights"
        return (
            f"{self.path}: {size(self.bytes)}, differs by at most {self.difference:.1e} {where}, "
            f"written in {self.seconds:.1f} s, loaded in {self.loading_seconds:.1f} s{more}"
        )

    __str__ = text

    def row(self) -> dict[str, str]:
        """A line of the table of several."""
        return {
            "file": str(self.path),
            "holds": f"opset {self.facts['opset']}" if "opset" in self.facts else self.format,
            "size": size(self.bytes),
            "differs by": f"{self.difference:.1e}",
            "compared": self._batches() if self.rows else "weights",
            "written": f"{self.seconds:.1f} s",
            "loaded": f"{self.loading_seconds:.1f} s",
        }

    def _batches(self) -> str:
        lengths = f" of length {_joined(self.facts['lengths'])}" if "lengths" in self.facts else ""
        return f"batches of {_joined(self.rows)}{lengths}"


def size(count: int) -> str:
    """Bytes in a unit that a person reads.

    >>> size(100), size(2048), size(3 << 20)
    ('100 bytes', '2.0 KiB', '3.0 MiB')
    """
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << power:
            return f"{count / (1 << power):.1f} {unit}"
    return f"{count} bytes"


def _joined(rows: Sequence[int]) -> str:
    told = [str(one) for one in rows]
    return " and ".join([", ".join(told[:-1]), told[-1]] if len(told) > 1 else told)
