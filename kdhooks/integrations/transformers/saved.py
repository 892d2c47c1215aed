"""Our state beside a `Trainer`'s checkpoint: ``checkpoint-N/kdhooks.pt``, which goes when the folder goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdhooks.errors import CheckpointError
from kdhooks.messages import logger
from kdhooks.torch.checkpoint import CheckpointFile

NAME = "kdhooks.pt"


class StateFile(CheckpointFile):
    """The file; plain data and tensors only."""

    keys = ("distiller", "step", "epoch_step", "adds_up")


def folder_of(trainer: Any, step: int) -> Path:
    """The folder of a trainer's checkpoint, of a trial's where it searches."""
    place = getattr(trainer, "_get_output_dir", None)
    run = trainer.args.output_dir if place is None else place(trial=getattr(trainer, "_trial", None))
    return Path(run, f"checkpoint-{step}")


def read_state(folder: Path, step: int) -> dict[str, Any] | None:
    """The state of a checkpoint; None, and a warning, where it was written without us.

    Raises:
        CheckpointError: it is damaged, of a newer version or of another step.
    """
    path = folder / NAME
    if not path.is_file():
        logger.warning(
            "%s has no %s: it was saved without distillation, so matchers, schedules and history begin anew at step %d",
            *(folder, NAME, step),
        )
        return None
    content = StateFile(path).read()
    if content["step"] != step:
        raise CheckpointError(
            f"{path} is of step {content['step']}, and the checkpoint beside it of step {step}: one of them was copied "
            "from elsewhere"
        )
    return content
