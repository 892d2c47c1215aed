"""Programs of `torch.export`: traced from a clean copy, written as .pt2, and loaded without unpickling.

Rules: the file holds no example inputs, which may be somebody's data, and no paths of the machine that wrote it.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from kdhooks.errors import DataError, ExportError, UsageError, place_of
from kdhooks.measurement.rows import rows_in
from kdhooks.messages import others_silent
from kdhooks.nests import map_leaves
from kdhooks.torch.export_copy import plain
from kdhooks.torch.outputs import as_call

_BATCH, _LENGTH = "batch", "length"


@dataclass(frozen=True)
class Program:
    """A traced program.

    Attributes:
        exported: the program.
        inputs: the names of its input tensors, in order, and of each the names of its axes that may vary.
    """

    exported: ExportedProgram
    inputs: Mapping[str, Mapping[int, str]]


def trace(twin: nn.Module, batch: Any, dynamic_batch: bool, length: int | None) -> Program:
    """Trace a clean copy, whose ``forward`` returns plain outputs from now on.

    Args:
        twin: in evaluation mode.
        batch: two rows or more where the batch's size may vary.
        dynamic_batch: whether it may.
        length: that of the second axis of token inputs where it may vary, or None.

    Raises:
        ExportError: it can't be traced; the message says why.
    """
    _return_plain(twin)
    args, kwargs, given = _call(twin, batch)
    axes = _axes(batch, dynamic_batch, length)
    problem: Exception | None = None
    shapes = map_leaves(_is_leaf, partial(_dims, axes=axes), given)
    for one_row in (True, False):  # a program that was told of batches of one row, and else one of two and more
        try:
            with others_silent(), _any_size(one_row):
                program = torch.export.export(twin, args, kwargs, dynamic_shapes=shapes or None)
        except Exception as error:  # whatever a foreign model makes of being traced
            problem = problem or error
            if not dynamic_batch or not _is_about_sizes(error):
                break
            continue
        for node in program.graph_module.graph.nodes:
            node.meta.pop("stack_trace", None)
        return Program(program, dict(_names(given, axes)))
    raise ExportError(_why(twin, problem)) from problem


def write(program: Program, path: Path) -> None:
    """Write a program, without its example inputs."""
    exported = program.exported
    before = exported.example_inputs
    exported.example_inputs = None
    try:
        with others_silent():
            torch.export.save(exported, path)
    finally:
        exported.example_inputs = before


def load_program(path: str | Path) -> ExportedProgram:
    """Load a .pt2 file that `kdhooks.export` wrote, without unpickling anything.

    Files of others may hold pickled tensors and objects, which `torch.export.load` would run; they are refused here.
    What is left is still a program, whose expressions torch evaluates: load files of people you trust only.

    Args:
        path: of the file.

    Raises:
        DataError: the file is missing, damaged, no such program, or holds pickled objects.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            pickled = _pickled(archive)
    except OSError as error:
        raise DataError(f"{path} can't be read: {error.strerror or error}") from None
    except (zipfile.BadZipFile, ValueError, KeyError, AttributeError):
        raise DataError(f"{path} is no program of torch.export, or damaged") from None
    if pickled:
        raise DataError(f"{path} holds the pickled object {pickled}, which would be run when loaded: it is refused")
    try:
        with others_silent():
            found: ExportedProgram = torch.export.load(path)
    except Exception:  # whatever a damaged file makes of the reader
        raise DataError(f"{path} is no program of torch.export that this torch can read, or damaged") from None
    return found


def _pickled(archive: zipfile.ZipFile) -> str | None:
    """The first record that loading would unpickle without care, or None."""
    names = archive.namelist()
    if not any("/models/" in name for name in names):
        raise ValueError("no program")
    for name in names:
        folder, _, last = name.rpartition("/")
        if last.endswith("_config.json") and folder.endswith(("data/weights", "data/constants")):
            for key, entry in json.loads(archive.read(name))["config"].items():
                if entry.get("use_pickle", True) or not str(entry["path_name"]).startswith(("weight_", "tensor_")):
                    return str(key)
        elif last.endswith(".pt") and folder.endswith(("data/weights", "data/constants")):
            return name  # the older way, all tensors in one pickle
        elif folder.endswith("data/sample_inputs") and archive.getinfo(name).file_size:
            try:
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)
            except Exception:  # torch would go on and load it with all that is in it
                return name
    return None


def _return_plain(twin: nn.Module) -> None:
    forward = twin.forward
    if getattr(forward, "_plain", False):
        return
    signature = inspect.signature(forward)

    def plain_forward(*args: Any, **kwargs: Any) -> Any:
        return plain(forward(*args, **kwargs))

    plain_forward.__signature__ = signature  # type: ignore[attr-defined]
    plain_forward._plain = True  # type: ignore[attr-defined]
    twin.forward = plain_forward


@contextlib.contextmanager
def _any_size(wanted: bool) -> Iterator[None]:
    """Trace so that a batch of one row is a batch like any other, where this torch can."""
    options: Any = import_module("torch.fx.experimental._config")

    if wanted and hasattr(options, "backed_size_oblivious"):
        with options.patch(backed_size_oblivious=True):
            yield
    else:
        yield


def length_of(batch: Any) -> int:
    """The length of token inputs: the second axis of the first input of integers.

    Raises:
        UsageError: there is no such input.
    """
    for leaf in _tensors(batch):
        if leaf.ndim >= 2 and not leaf.is_floating_point():
            return int(leaf.shape[1])
    raise UsageError("dynamic_length is for token inputs, and no input is of integers with two axes or more")


def _axes(batch: Any, dynamic_batch: bool, length: int | None) -> dict[int, tuple[str, int]]:
    """By axis the name and the length that a tensor's axis has where it may vary."""
    found = {0: (_BATCH, rows_in(batch))} if dynamic_batch else {}
    return found if length is None else {**found, 1: (_LENGTH, length)}


def tensors_of_call(twin: nn.Module, batch: Any) -> list[Tensor]:
    """The tensors of a batch in the order in which a program takes them."""
    return _tensors(_call(twin, batch)[2])


def _call(twin: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
    """How the model is called, keywords in the order of its signature; and all of it by the parameters' names."""
    args, kwargs = as_call(batch)
    given = dict(inspect.signature(twin.forward).bind(*args, **kwargs).arguments)
    return args, {name: kwargs[name] for name in given if name in kwargs} | kwargs, given


def _tensors(batch: Any) -> list[Tensor]:
    found: list[Tensor] = []
    map_leaves(lambda leaf: isinstance(leaf, Tensor), found.append, batch)
    return found


def _varying(tensor: Tensor, axes: Mapping[int, tuple[str, int]]) -> dict[int, str]:
    return {axis: name for axis, (name, size) in axes.items() if axis < tensor.ndim and tensor.shape[axis] == size}


def _dims(leaf: Any, axes: Mapping[int, tuple[str, int]]) -> Any:
    return dict.fromkeys(_varying(leaf, axes), Dim.DYNAMIC) or None if isinstance(leaf, Tensor) else None


def _is_leaf(value: Any) -> bool:
    return not isinstance(value, (Mapping, tuple, list))


def _names(given: Mapping[str, Any], axes: Mapping[int, tuple[str, int]]) -> Iterator[tuple[str, dict[int, str]]]:
    """Names of the tensors that a call gives, in order: parameters, keys, and places behind ``_``."""
    for name, value in given.items():
        if isinstance(value, Tensor):
            yield name, _varying(value, axes)
        elif isinstance(value, Mapping):
            yield from _names(value, axes)
        elif isinstance(value, (tuple, list)):
            yield from _names({f"{name}_{place}": item for place, item in enumerate(value)}, axes)


def _is_about_sizes(error: Exception) -> bool:
    return "Constraints violated" in str(error) or "specializ" in str(error)


def _why(twin: nn.Module, error: Exception | None) -> str:
    kind = type(twin).__name__
    if error is None:
        return f"{kind} can't be traced"
    if type(error).__name__ == "GuardOnDataDependentSymNode":
        cure = "a traced program can't: use torch.where or torch.cond"
        return f"{kind} can't be traced: its forward decides by the values of a tensor{place_of(error)}, which {cure}"
    if _is_about_sizes(error):
        lines = [line.strip(" -") for line in str(error).splitlines()[1:] if line.strip().startswith("-")]
        told = f": {lines[0]}" if lines else ""
        return f"{kind} does not take batches of any size{told}. dynamic_batch=False writes it for one size"
    first = (str(error).splitlines() or [""])[0].removesuffix(".")
    return f"{kind} can't be traced: {type(error).__name__}: {first}{place_of(error)}"
