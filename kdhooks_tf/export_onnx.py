"""ONNX: a model's graph by tf2onnx, with the names that the model's own inputs and outputs have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import tensorflow as tf

from kdhooks.errors import ExportError, MissingPackageError
from kdhooks.measurement.runs import reason_of
from kdhooks.messages import others_silent
from kdhooks_tf.export_graph import Served

OPSET = 18
"""The highest that tf2onnx writes, which all onnxruntimes since 1.14 read."""


def write(served: Served, outputs: Sequence[str], path: Path, opset: int | None) -> dict[str, Any]:
    """Write the graph.

    Args:
        served: the model's forward.
        outputs: the names of its outputs, in order.
        path: of the file.
        opset: the version of the operators; None takes `OPSET`.

    Raises:
        MissingPackageError: tf2onnx is not installed.
        ExportError: an operation has no counterpart in ONNX, or tf2onnx has no such opset.
    """
    opset = OPSET if opset is None else opset
    converter, onnx = _packages()
    try:
        with others_silent():
            flat = served.flat()
            function = tf.function(lambda *tensors: list(flat(*tensors).values()), autograph=False)
            made, _ = converter.convert.from_function(function, list(served.specs.values()), opset=opset)
            _name(made.graph, list(served.specs), outputs)
            onnx.save(made, str(path))
    except OSError:
        raise
    except Exception as error:  # whatever the converter meets
        raise ExportError(f"it can't be written as ONNX: {reason_of(error)}") from error
    return {"opset": opset, "inputs": list(served.specs), "outputs": list(outputs)}


def _packages() -> tuple[Any, Any]:
    with others_silent():
        try:
            onnx = import_module("onnx")
            converter = import_module("tf2onnx")
        except ImportError as error:
            package = "onnx" if error.name == "onnx" else "tf2onnx"
            raise MissingPackageError(package, "an .onnx file of a Keras model", "export") from None
        with suppress(ImportError):  # Keras' own repairs of tf2onnx for NumPy 2
            import_module("keras.src.export.tf2onnx_lib").patch_tf2onnx()
    return converter, onnx


def _name(graph: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Rename what goes in and comes out; the converter has names of nodes there."""
    names: dict[str, str] = {}
    if len(graph.input) != len(inputs) or len(graph.output) != len(outputs):
        raise ExportError(
            f"the graph has {len(graph.input)} inputs and {len(graph.output)} outputs, and the model "
            f"{len(inputs)} and {len(outputs)}"
        )
    for value, name in (*zip(graph.input, inputs, strict=True), *zip(graph.output, outputs, strict=True)):
        names[value.name] = name
    inner = {one for node in graph.node for one in node.output} | {one.name for one in graph.initializer}
    for clash in (set(names.values()) & inner) - set(names):
        names[clash] = f"{clash}_inner"
    _rename(graph, names)


def _rename(graph: Any, names: Mapping[str, str]) -> None:
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for node in graph.node:
        for ends in (node.input, node.output):
            ends[:] = [names.get(one, one) for one in ends]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, names)
