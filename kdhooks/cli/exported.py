"""``kdhooks export``: the student as files that others run, each loaded again and compared."""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdhooks.backend import Backend, backend_of
from kdhooks.cli import actions, factories
from kdhooks.errors import UsageError
from kdhooks.export import export_all

_CHECKPOINTS = {"pytorch": "checkpoint.pt", "tensorflow": "checkpoint.npz"}
_ROWS = 8
"""Of a configuration's first batch, at most: enough to compare, and quick."""

Shape = tuple[str, tuple[int, ...]]
"""The name of an input, empty where it has none, and its shape."""


def export(arguments: Namespace) -> int:
    """Write the files; 2 where one could not be written, after the others are."""
    with actions.framework("a model"):
        actions.import_modules(arguments.modules)
        model = factories.make_model(arguments.model)
        backend = backend_of(model)
    weights = _read_weights(backend, model, arguments)
    report = export_all(
        model,
        arguments.to,
        inputs=_inputs(backend, arguments),
        dynamic_batch=not arguments.fixed_batch,
        dynamic_length=arguments.dynamic_length,
        tolerance=arguments.tolerance,
        opset=arguments.opset,
    )
    if arguments.json:
        files = [one.to_dict() for one in report.exported]
        failed = {str(path): str(error) for path, error in report.failed.items()}
        print(json.dumps({"weights": weights, "exported": files, "failed": failed}, indent=2))
    elif report.exported:
        print(f"weights: {weights}\n{report.table()}")
    for error in report.failed.values():
        print(f"kdhooks export: not written: {error}", file=sys.stderr)
    return 0 if report.ok else 2


def _read_weights(backend: Backend, model: Any, arguments: Namespace) -> str:
    """Load the weights that are asked for, and say which they are."""
    path: Path | None = arguments.weights
    if arguments.run is not None:
        if path is not None:
            raise UsageError("--run and --weights both name weights: give one of them")
        if not arguments.run.is_dir():
            raise UsageError(f"--run {arguments.run} is no folder: name the folder of a run, or a file with --weights")
        path = arguments.run / _CHECKPOINTS[backend.name]
        if not path.is_file():
            raise UsageError(f"there is no checkpoint at {path}: name the folder in which fit() worked")
    if path is None:
        return f"those that {arguments.model} has"
    said = backend.read_run(model, path)
    if said is None:
        backend.read_weights(model, path)
    return f"{path}{'' if said is None else f', {said}'}"


def _inputs(backend: Backend, arguments: Namespace) -> Any:
    """Example inputs: of these shapes, or the first rows of a configuration's data; None where nothing is said."""
    given: list[Shape] = [*arguments.shape, *arguments.tokens]
    if arguments.config is None:
        if arguments.changes:
            raise UsageError("--set changes a configuration, and none is named with --config")
        return _of_shapes(arguments.shape, arguments.tokens, backend.name) if given else None
    if given:
        raise UsageError("--config takes example inputs from data, so --shape and --tokens have no use beside it")
    conf = actions.configuration(Namespace(file=arguments.config, changes=arguments.changes))
    loader = conf.settings.distillation.train.dataloader
    if loader is None:
        raise conf.problem("distillation.train", "has no dataloader to take a batch from", "Name shapes with --shape.")
    found = backend.first_inputs(loader, conf)
    if found is None:
        raise UsageError(f"the data of {arguments.config} has no batch")
    return first_rows(found)


def first_rows(inputs: Any) -> Any:
    """At most eight rows of inputs."""
    from kdhooks.measurement import batch_of, rows_in

    return batch_of(inputs, min(_ROWS, rows_in(inputs)), lambda parts: parts[0])


def _of_shapes(shapes: Sequence[Shape], tokens: Sequence[Shape], framework: str) -> Any:
    """Floats of a normal distribution, then token numbers 0, 1, 0, 1, ...; by name where they have names."""
    generator = np.random.default_rng(0)
    whole = np.int64 if framework == "pytorch" else np.int32
    made: list[tuple[str, Any]] = []
    try:
        made += [(name, generator.standard_normal(shape, dtype=np.float32)) for name, shape in shapes]
        made += [(name, (np.arange(math.prod(shape)) % 2).astype(whole).reshape(shape)) for name, shape in tokens]
    except (MemoryError, ValueError) as error:
        raise UsageError(f"no example input can be made: {str(error).splitlines()[0]}") from None
    names = [name for name, _ in made if name]
    if names and len(set(names)) < len(made):
        raise UsageError(f"inputs are told apart by name or by place: name each once, as in --tokens {names[0]}=1,128")
    values = [value for _, value in made]
    if names:
        return dict(made)
    return values[0] if len(values) == 1 else tuple(values)
