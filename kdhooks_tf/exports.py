"""Export as the core sees it: a copy that writes itself, and the weights that a run has left in its checkpoint."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from kdhooks_tf.checkpoint import CheckpointFile, check_student, put_student_state
from kdhooks_tf.copies import put_weights


class Exports:
    """The part of TensorFlow's backend that exports; see `kdhooks.backend.Backend`."""

    def exporter(self, model: Any, inputs: Any, **options: Any) -> Any:
        """A clean copy of a model, for export; see `kdhooks_tf.export_model.KerasExporter`."""
        from kdhooks_tf.export_model import KerasExporter

        return KerasExporter(model, inputs, **options)

    def read_run(self, model: Any, path: Path) -> str | None:
        """Load the best weights of a checkpoint of `fit()`, or the last; says which, None for any other file."""
        if not _is_checkpoint(path):
            return None
        content = CheckpointFile(path).read()
        check_student(model, content["student"], path)
        put_student_state(model, content["student"])
        best = content["distiller"]["best"]
        if best["weights"] is None:
            return "the last of the run: nothing was evaluated"
        put_weights(model, best["weights"])
        return f"the best of the run: epoch {best['epoch']}, score {best['score']:.4f}"


def _is_checkpoint(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return "content.json" in archive.namelist()
