"""Runs an ONNX file again, in onnxruntime on the CPU."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from kdhooks.errors import ExportError, MissingPackageError

Feed = Mapping[str, NDArray[Any]]


def check_package() -> None:
    """MissingPackageError where onnxruntime is missing: a file that was never run is not given to anybody."""
    try:
        import_module("onnxruntime")
    except ImportError:
        raise MissingPackageError("onnxruntime", "running an .onnx file to compare it", "export") from None


def session(path: Path) -> Callable[[Feed], dict[str, NDArray[Any]]]:
    """Load a file; what is returned takes inputs by name and gives outputs by name.

    Raises:
        ExportError: onnxruntime can't load the file; later, that it can't run it.
    """
    runtime = import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors only
    try:
        loaded = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes have no base of their own
        raise ExportError(f"onnxruntime can't load it: {_first_line(error)}") from error
    inputs, outputs = ([one.name for one in ends] for ends in (loaded.get_inputs(), loaded.get_outputs()))

    def run(feed: Feed) -> dict[str, NDArray[Any]]:
        try:
            values = loaded.run(None, {name: feed[name] for name in inputs})
        except Exception as error:
            raise ExportError(f"onnxruntime can't run it: {_first_line(error)}") from error
        return dict(zip(outputs, values, strict=True))

    return run


def _first_line(error: Exception) -> str:
    first = (str(error).strip().splitlines() or [""])[0]
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed:)?", "", first)
