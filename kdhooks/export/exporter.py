"""What `export` asks of a framework; `kdhooks.backend.Backend.exporter` gives it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray


class Exporter(Protocol):
    """A clean copy of a model in evaluation mode, which writes itself into files and reads them again.

    Attributes:
        rows: batch sizes to compare on, that of the example inputs first; empty where there are none.
        length: that of token inputs, where it may vary: of the last of those batches it is half; else None.
        precision: the least precise floating dtype that the model computes in, as NumPy spells it.
    """

    rows: tuple[int, ...]
    length: int | None
    precision: str

    def outputs(self, rows: int) -> dict[str, NDArray[Any]]:
        """What the copy returns for so many rows of the example inputs, by name; its weights for 0 rows."""

    def feed(self, rows: int) -> dict[str, NDArray[Any]]:
        """So many rows of the example inputs by the names that an ONNX graph has for them, once it is written."""

    def write(self, form: str, path: Path) -> dict[str, Any]:
        """Write the copy in a format of `kdhooks.export.FORMATS`; gives what else is to be known of the file."""

    def read(self, form: str, path: Path) -> Callable[[int], dict[str, NDArray[Any]]]:
        """Load what `write` wrote, but ONNX, without the copy's weights; gives `outputs` of the file."""
