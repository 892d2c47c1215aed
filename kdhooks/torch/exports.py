"""Export as the core sees it: a copy that writes itself, and the weights that a run has left in its checkpoint."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kdhooks.torch.checkpoint import CheckpointFile, check_student


class Exports:
    """The part of PyTorch's backend that exports; see `kdhooks.backend.Backend`."""

    def exporter(self, model: nn.Module, inputs: Any, **options: Any) -> Any:
        """A clean copy of a model, for export; see `kdhooks.torch.export_model.TorchExporter`."""
        from kdhooks.torch.export_model import TorchExporter

        return TorchExporter(model, inputs, **options)

    def read_run(self, model: nn.Module, path: Path) -> str | None:
        """Load the best weights of a checkpoint of `fit()`, or the last; says which, None for any other file."""
        from kdhooks.torch.backend import unwrap

        if not _is_checkpoint(path):
            return None
        content = CheckpointFile(path).read()
        own = unwrap(model)
        check_student(own, content["student"], path)
        best = content["distiller"]["best"]
        own.load_state_dict(content["student"] if best["weights"] is None else best["weights"])
        if best["weights"] is None:
            return "the last of the run: nothing was evaluated"
        return f"the best of the run: epoch {best['epoch']}, score {best['score']:.4f}"


def _is_checkpoint(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # whatever a foreign file makes of the reader
        return False
    return isinstance(content, dict) and content.get("format") == "kdhooks checkpoint"
