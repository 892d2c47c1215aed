"""Export of PyTorch models: what `kdhooks.export` asks of a backend.

Rules: everything is done to a clean copy on the CPU, without gradients, outside of autocast, and no generator of the
user's is drawn from. The program that `torch.export` traces is made once, for all formats that begin with it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from kdhooks.errors import ExportError, KDHooksError, ModelError, UsageError
from kdhooks.measurement import batch_of, rows_in, shorter
from kdhooks.measurement.runs import described, reason_of
from kdhooks.nests import is_array, map_leaves
from kdhooks.torch import export_onnx, export_program
from kdhooks.torch.export_copy import arrays, clean_twin, each_once, floats_as, named, plain, precision_of
from kdhooks.torch.outputs import as_call, describe
from kdhooks.torch.weights import read_weights, safetensors


class TorchExporter:
    """A clean copy that writes itself; see `kdhooks.export.exporter.Exporter`.

    Args:
        model: the model, which stays as it is.
        inputs: of one row or more, tensors or NumPy arrays, or None.
        dynamic_batch: whether a program takes batches of any size.
        dynamic_length: whether the second axis of token inputs may have any length.
        opset: of ONNX.

    Raises:
        ModelError: the model fails on these inputs, or returns no tensor.
        ExportError: the model can't be copied.
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any,
        *,
        dynamic_batch: bool = True,
        dynamic_length: bool = False,
        opset: int | None = None,
    ) -> None:
        self.twin = clean_twin(model)
        self.precision = precision_of(self.twin)
        self.rows: tuple[int, ...] = ()
        self.length: int | None = None
        self._dynamic = dynamic_batch
        self._opset = opset
        self._own: dict[int, dict[str, NDArray[Any]]] = {0: arrays(self.twin.state_dict())}
        self._program: Any = None
        if inputs is not None:
            self._inputs = floats_as(self.twin, map_leaves(is_array, _tensor, inputs))
            count = rows_in(self._inputs)
            self.length = export_program.length_of(self._inputs) if dynamic_length else None
            self.rows = tuple(dict.fromkeys((count, 1, count + 1))) if dynamic_batch else (count,)
            for rows in self.rows:
                self._own[rows] = self._first(rows)

    def batch(self, rows: int) -> Any:
        """So many rows of the example inputs; of the last size half as long, where the length may vary."""
        batch = batch_of(self._inputs, rows, torch.cat)
        return batch if self.length is None or rows != self.rows[-1] else shorter(batch, self.length)

    def outputs(self, rows: int) -> dict[str, NDArray[Any]]:
        """What the copy returns for so many rows; its weights for 0 rows."""
        return self._own[rows]

    def feed(self, rows: int) -> dict[str, NDArray[Any]]:
        """So many rows of the example inputs, by the names that they have in a graph."""
        batch = self.batch(rows)
        return arrays(dict(zip(self._traced().inputs, export_program.tensors_of_call(self.twin, batch), strict=True)))

    def write(self, form: str, path: Path) -> dict[str, Any]:
        """Write the copy in a format."""
        with _alone():
            if form == "safetensors":
                tensors, metadata = each_once(self.twin.state_dict())
                if not tensors:
                    raise ExportError(f"{type(self.twin).__name__} has no weights")
                safetensors().save_file(tensors, str(path), metadata)
                return {}
            if form == "onnx":
                export_onnx.check_packages()
            program = self._traced()
            if form == "pt2":
                export_program.write(program, path)
                return {"inputs": list(program.inputs)}
            return export_onnx.write(program, list(self.outputs(self.rows[0])), path, self._opset)

    def read(self, form: str, path: Path) -> Callable[[int], dict[str, NDArray[Any]]]:
        """Load what was written, and give what runs it."""
        if form == "safetensors":
            other = copy.deepcopy(self.twin)
            with torch.no_grad():
                for tensor in other.state_dict().values():
                    tensor.zero_()
            read_weights(other, path)
            return lambda rows: self._of(other, rows) if rows else arrays(other.state_dict())
        if form == "pt2":
            module = export_program.load_program(path).module()
            return lambda rows: self._of(module, rows)
        raise UsageError(f"a {form} file is run by its own package, not by torch")

    def _of(self, module: nn.Module, rows: int) -> dict[str, NDArray[Any]]:
        args, kwargs = as_call(self.batch(rows))
        with _alone():
            return arrays(named(plain(module(*args, **kwargs))))

    def _first(self, rows: int) -> dict[str, NDArray[Any]]:
        """The copy's own outputs, after which it is known that the inputs fit."""
        batch = self.batch(rows)
        args, kwargs = as_call(batch)
        kind = type(self.twin).__name__
        try:
            with _alone():
                output = self.twin(*args, **kwargs)
        except Exception as error:  # whatever a foreign model makes of its inputs
            cure = "; with dynamic_batch=False a file is for batches of the examples' size alone"
            told = f"{reason_of(error)}{cure if rows != self.rows[0] else ''}"
            raise ModelError(f"{kind} can't be exported: it failed on {described(batch)}: {told}") from None
        found = arrays(named(plain(output)))
        if not found:
            raise ModelError(f"{kind} can't be exported: it returned {describe(output)}, in which there is no tensor")
        return found

    def _traced(self) -> export_program.Program:
        """The traced program; the error of the first time where it can't be traced."""
        if self._program is None:
            rows = max(2, self.rows[0]) if self._dynamic else self.rows[0]
            batch = batch_of(self._inputs, rows, torch.cat)
            try:
                self._program = export_program.trace(self.twin, batch, self._dynamic, self.length)
            except ExportError as error:
                self._program = error
        if isinstance(self._program, KDHooksError):
            raise self._program
        found: export_program.Program = self._program
        return found


@contextmanager
def _alone() -> Iterator[None]:
    """Without gradients, without the caller's autocast, and with generators afterwards as they were."""
    from kdhooks.torch.backend import BACKEND
    from kdhooks.torch.observation.untouched import untouched

    with (
        untouched([], None, BACKEND),
        torch.no_grad(),
        torch.autocast("cpu", enabled=False),
        torch.autocast("cuda", enabled=False),
    ):
        yield


def _tensor(value: Any) -> Tensor:
    found = torch.as_tensor(value) if isinstance(value, (np.ndarray, np.generic)) else value
    if not isinstance(found, Tensor):
        raise ModelError(f"example inputs of a PyTorch model are tensors or NumPy arrays, not {type(value).__name__}")
    return found.detach().cpu()
