"""`export` and `export_all`: write, load again, compare, and only then put the file in its place."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdhooks.backend import backend_of
from kdhooks.check.report import table
from kdhooks.errors import DataError, ExportError, KDHooksError, ModelError, UsageError
from kdhooks.export import onnx_session
from kdhooks.export.comparing import TOLERANCES, compared
from kdhooks.export.exporter import Exporter
from kdhooks.export.formats import Format, check_framework, format_of
from kdhooks.export.placing import bytes_of, check_place, placed
from kdhooks.export.result import Exported
from kdhooks.measurement.runs import reason_of


@dataclass(frozen=True)
class ExportReport:
    """What became of each of several files.

    Attributes:
        exported: those that are written.
        failed: why others are not, by their paths.
    """

    exported: tuple[Exported, ...]
    failed: Mapping[Path, KDHooksError]

    @property
    def ok(self) -> bool:
        """Whether all are written."""
        return not self.failed

    def table(self) -> str:
        """A table of those that are written."""
        return table([one.row() for one in self.exported])

    def text(self) -> str:
        """The table, and a line for each that is not written."""
        lines = [self.table()] if self.exported else []
        return "\n".join([*lines, *(f"not written: {error}" for error in self.failed.values())])

    __str__ = text


def export(
    model: Any,
    path: str | Path,
    *,
    format: str | None = None,
    inputs: Any = None,
    dynamic_batch: bool = True,
    dynamic_length: bool = False,
    tolerance: float | None = None,
    opset: int | None = None,
) -> Exported:
    """Write a model as a file for others to run, load it again, and compare its outputs with the model's.

    What is written is a clean copy: on the CPU, in evaluation mode, without hooks of ours, compilation, DDP or the
    like around it, in the dtype that the model has. The model is afterwards as it was, also while a run is under way.

    Args:
        model: a PyTorch or Keras model.
        path: of the file; a name without a suffix is the folder of a SavedModel. A file that is there is replaced.
        format: of `FORMATS`; None takes that which the name ends like.
        inputs: example inputs of one row or more, in the form that the model takes: a tensor or array, a list or tuple
            of positional ones, a mapping of keyword ones. Weights alone need none, nor a functional Keras model.
        dynamic_batch: whether the file takes batches of any size. It is then compared with several.
        dynamic_length: whether the second axis of token inputs may have any length as well.
        tolerance: the largest absolute difference of outputs up to 1, and that much of the largest where they are
            larger; None takes 1e-5, and more for models in half precision.
        opset: of ONNX; None takes 18.

    Returns:
        What was found; prints as one line.

    Raises:
        UsageError: no such format, example inputs are missing, or a folder would be replaced.
        ExportError: the model can't be written in this format, or the file gives other numbers. Nothing is left of it.
        MissingPackageError: the format needs a package.
        DataError: the place can't be written.

    Example:
        >>> import tempfile, torch
        >>> student = torch.nn.Linear(4, 3)
        >>> found = export(student, f"{tempfile.mkdtemp()}/student.safetensors", inputs=torch.randn(2, 4))
        >>> found.format, found.difference, found.rows
        ('safetensors', 0.0, (2, 1, 3))
    """
    targets = [(Path(path), format_of(path, format))]
    options = {"dynamic_batch": dynamic_batch, "dynamic_length": dynamic_length, "opset": opset}
    report = _written(model, targets, inputs, tolerance, options)
    for error in report.failed.values():
        raise error
    return report.exported[0]


def export_all(
    model: Any,
    paths: Sequence[str | Path],
    *,
    inputs: Any = None,
    dynamic_batch: bool = True,
    dynamic_length: bool = False,
    tolerance: float | None = None,
    opset: int | None = None,
) -> ExportReport:
    """Write a model in several formats, each as `export` does; one that fails keeps none of the others from it.

    Args:
        model: a PyTorch or Keras model.
        paths: of the files, whose names say the formats.
        inputs: as for `export`.
        dynamic_batch: as for `export`.
        dynamic_length: as for `export`.
        tolerance: as for `export`.
        opset: as for `export`.

    Raises:
        UsageError: no such format, a file is named twice, or a folder would be replaced; nothing is written then.
    """
    targets = [(Path(path), format_of(path)) for path in paths]
    twice = [str(path) for at, (path, _) in enumerate(targets) if path in [one for one, _ in targets[:at]]]
    if twice:
        raise UsageError(f"{twice[0]} is named twice")
    options = {"dynamic_batch": dynamic_batch, "dynamic_length": dynamic_length, "opset": opset}
    return _written(model, targets, inputs, tolerance, options)


def _check_options(options: Mapping[str, Any]) -> None:
    if options["dynamic_length"] and not options["dynamic_batch"]:
        raise UsageError("dynamic_length goes with batches of any size: leave dynamic_batch as it is, or both out")


def _written(
    model: Any,
    targets: Sequence[tuple[Path, Format]],
    inputs: Any,
    tolerance: float | None,
    options: Mapping[str, Any],
) -> ExportReport:
    _check_options(options)
    backend = backend_of(model)
    failed: dict[Path, KDHooksError] = {}
    ready = []
    for path, form in targets:
        try:
            check_framework(form, path, type(model).__name__, backend.name)
            check_place(path, form)
            ready.append((path, form))
        except UsageError:
            raise
        except KDHooksError as error:
            failed[path] = error
    done: list[Exported] = []
    exporter: Any = backend.exporter(model, inputs, **options) if ready else None
    for path, form in ready:
        if form.needs_inputs and not exporter.rows:
            raise UsageError(
                f"{path} can't be written without example inputs: pass a batch as the model takes it "
                "(inputs=, or on the command line --shape, --tokens or --config)"
            )
    for path, form in ready:
        try:
            done.append(_one(exporter, path, form, tolerance))
        except UsageError:
            raise
        except KDHooksError as error:
            failed[path] = error
    return ExportReport(tuple(done), failed)


def _one(exporter: Exporter, path: Path, form: Format, tolerance: float | None) -> Exported:
    allowed = TOLERANCES.get(exporter.precision, 1e-5) if tolerance is None else tolerance
    if form.name == "onnx":
        onnx_session.check_package()
    with placed(path) as temporary:
        begun = time.perf_counter()
        try:
            facts = exporter.write(form.name, temporary)
            written = time.perf_counter()
            read = _reader(exporter, form, temporary)
            loaded = time.perf_counter()
            difference = _compared(exporter, read, allowed)
        except (DataError, ModelError) as error:  # ExportError is one, too
            told = str(error).replace(str(temporary), path.name)
            raise ExportError(f"{path}: {told}") from error.__cause__
        size = bytes_of(temporary)
    return Exported(
        path=path,
        format=form.name,
        difference=difference,
        tolerance=allowed,
        rows=exporter.rows,
        bytes=size,
        seconds=written - begun,
        loading_seconds=loaded - written,
        facts={**facts, "lengths": [exporter.length, max(1, exporter.length // 2)]} if exporter.length else facts,
    )


def _reader(exporter: Exporter, form: Format, path: Path) -> Callable[[int], Mapping[str, Any]]:
    """What gives the outputs of a file by the number of rows."""
    if form.name != "onnx":
        return exporter.read(form.name, path)
    run = onnx_session.session(path)
    return lambda rows: run(exporter.feed(rows))


def _compared(exporter: Exporter, read: Callable[[int], Mapping[str, Any]], allowed: float) -> float:
    """The largest difference over all batch sizes."""
    largest = 0.0
    for rows in exporter.rows or (0,):
        try:
            given = read(rows)
        except KDHooksError:
            raise
        except Exception as error:  # of a foreign program, on a batch of this size
            raise ExportError(f"loaded again it can't be run: {reason_of(error)}") from error
        difference, wrong = compared(exporter.outputs(rows), given, allowed)
        if wrong is not None:
            where = f" for {rows} row{'' if rows == 1 else 's'}" if rows else ""
            raise ExportError(f"loaded again it gives other numbers{where}: {wrong}")
        largest = max(largest, difference)
    return largest
