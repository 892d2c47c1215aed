"""The checkpoints of a run: the last epoch's and the best one's, and what makes one fit to go on from.

Rules: those of `kdhooks.loop.checkpoint`: read without unpickling, held against its checksums, compared with this run
before anything is changed, and put in the place of the former one when it is whole.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from torch import nn

from kdhooks.errors import CheckpointError
from kdhooks.loop.checkpoint import check_weights
from kdhooks.torch.checkpoint import CheckpointFile

FORMAT = "kdhooks training"
VERSION = 1
PREFIX = "student_model."
"""What stands before the student's names in a checkpoint."""

LAST = "last.ckpt"


class TrainingCheckpoint(CheckpointFile):
    """A checkpoint that `Keeper` has written."""

    def _checked(self, content: Any) -> dict[str, Any]:
        ours = content.get("kdhooks") if isinstance(content, Mapping) else None
        if not isinstance(ours, Mapping) or ours.get("format") != FORMAT:
            raise CheckpointError(f"{self.path} is no checkpoint of KnowledgeDistillationTraining")
        version = ours.get("version")
        if not isinstance(version, int) or version > VERSION:
            raise CheckpointError(
                f"the checkpoint {self.path} is of version {version}, and this kdhooks reads up to version {VERSION}: "
                "update kdhooks"
            )
        missing = [key for key in ("state_dict", "optimizer_states", "loops") if key not in content]
        if missing:
            raise CheckpointError(f"the checkpoint {self.path} is damaged: it has no {', '.join(missing)}")
        return dict(content)


def read_checkpoint(path: Path, student: nn.Module, arguments: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """A checkpoint that this run can go on from.

    Args:
        path: of the file.
        student: of this run.
        arguments: what must be the same as in the run that wrote it.
        epochs: of this run.

    Raises:
        CheckpointError: it is missing, damaged, no checkpoint of ours, of a newer version, of another student, of a
            run with other arguments, or there is nothing left to train.
    """
    content = TrainingCheckpoint(path).read()
    weights = {name.removeprefix(PREFIX): one for name, one in content["state_dict"].items() if name.startswith(PREFIX)}
    check_weights(student.state_dict(), weights, path)
    for name, value in content["kdhooks"]["arguments"].items():
        if name in arguments and arguments[name] != value:
            raise CheckpointError(
                f"the checkpoint {path} belongs to a run with {name}={value!r}, and this one has {arguments[name]!r}"
            )
    done = len(content["kdhooks"]["distiller"]["history"])
    if done >= epochs:
        raise CheckpointError(f"the checkpoint {path} is of epoch {done}, and max_epoch is {epochs}: nothing is left")
    return content


class Keeper(Checkpoint):
    """Writes ``last.ckpt`` after every epoch, and a copy of it where the epoch was the best so far.

    Args:
        folder: of the run.
        loader: the name of the first validation loader, for the file's name.

    Attributes:
        best: the best epoch's file, once there is one.
    """

    def __init__(self, folder: Path, loader: str | None) -> None:
        self.folder, self.loader = folder, loader
        self.best: Path | None = None

    @property
    def last(self) -> Path:
        """The last epoch's file."""
        return self.folder / LAST

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write; then raise what the validation failed with, since nothing can be lost any more."""
        module: Any = pl_module
        record = module.distiller.history[-1]
        part = self.folder / f".{LAST}.part"
        trainer.save_checkpoint(part, weights_only=False)
        if trainer.is_global_zero:
            os.replace(part, self.last)
            if record["best"]:
                self._keep(record)
        module.raise_failure(self.last)

    def _keep(self, record: Mapping[str, Any]) -> None:
        name = re.sub(r"[^\w.-]+", "_", str(self.loader))
        best = self.folder / f"best-epoch={record['epoch']:03d}-{name}={record['score']:.5g}.ckpt"
        part = self.folder / ".best.ckpt.part"
        shutil.copyfile(self.last, part)
        os.replace(part, best)
        former, self.best = self.best, best
        if former is not None and former != best:
            former.unlink(missing_ok=True)
