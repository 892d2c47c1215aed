"""ONNX: from a traced program by torch's exporter."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from kdhooks.errors import ExportError, MissingPackageError
from kdhooks.messages import others_silent
from kdhooks.torch.export_program import Program

OPSET = 18
"""What torch's exporter writes by itself, without converting it afterwards, and all onnxruntimes since 1.14 read."""


def check_packages() -> None:
    """MissingPackageError where what torch's exporter stands on is missing."""
    try:
        with others_silent():
            import_module("onnxscript")
    except ImportError:
        raise MissingPackageError("onnxscript", "an .onnx file", "export") from None


def write(program: Program, outputs: Sequence[str], path: Path, opset: int | None) -> dict[str, Any]:
    """Write a program; what is over 2 GB goes into a second file, ``.data``.

    Args:
        program: the traced one.
        outputs: the names of its outputs, in order.
        path: of the file.
        opset: the version of the operators; None takes `OPSET`.

    Raises:
        ExportError: an operation has no counterpart in ONNX, or torch has no such opset.
    """
    opset = OPSET if opset is None else opset
    try:
        with others_silent():
            made: Any = torch.onnx.export(program.exported, (), dynamo=True, opset_version=opset, verbose=False)
            _name(made.model.graph, program.inputs, outputs)
            made.save(str(path))
    except OSError:
        raise
    except Exception as error:  # whatever the exporter meets
        raise ExportError(f"it can't be written as ONNX: {_why(error)}") from error
    written = int(made.model.opset_imports[""])
    if written != opset:
        raise ExportError(f"torch {torch.__version__} wrote opset {written} in place of {opset}: ask for opset {OPSET}")
    return {"opset": opset, "inputs": [one.name for one in made.model.graph.inputs], "outputs": list(outputs)}


def _name(graph: Any, inputs: Mapping[str, Mapping[int, str]], outputs: Sequence[str]) -> None:
    """Give inputs and outputs the names that the model's own have, and varying axes words for names."""
    if len(graph.inputs) != len(inputs) or len(graph.outputs) != len(outputs):
        raise ExportError(
            f"the graph has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs, and the model "
            f"{len(inputs)} and {len(outputs)}"
        )
    axes: dict[str, str] = {}
    for value, varying in zip(graph.inputs, inputs.values(), strict=True):
        axes.update({str(value.shape[axis]): name for axis, name in varying.items()})
    ends = [*graph.inputs, *graph.outputs]
    taken = {*inputs, *outputs}
    for value in _values(graph):
        if value.name in taken and not any(value is one for one in ends):
            value.name = f"{value.name}_inner"
    for value, name in zip(ends, [*inputs, *outputs], strict=True):
        value.name = name
    for value in (*graph.inputs, *_values(graph)):
        if value.shape is not None:
            for axis, size in enumerate(value.shape):
                if not isinstance(size, int):
                    value.shape[axis] = re.sub(r"\w+", lambda word: axes.get(word[0], word[0]), str(size))


def _values(graph: Any) -> Iterator[Any]:
    for node in graph:
        yield from node.outputs


def _why(error: BaseException) -> str:
    """The cause that names the operation, not the steps on the way to it."""
    chain: list[BaseException] = [error]
    while (cause := chain[-1].__cause__) is not None:
        chain.append(cause)
    for one in reversed(chain):
        missing = re.search(r"No ONNX function found for <OpOverload\(op='([^']+)'", str(one))
        if missing:
            return f"ONNX has no counterpart of the operation {missing[1]}"
    return f"{type(chain[-1]).__name__}: {_first_line(chain[-1])}"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0]
