"""What makes a search this one, beside its space and its metrics: how candidates are trained."""

from __future__ import annotations

import zlib
from dataclasses import asdict
from typing import Any

from kdhooks.config.model import TrainSettings
from kdhooks.config.search_settings import AutoDistillationSettings, FlashSettings
from kdhooks.search.distilling.blocks import told


def identity_of(settings: AutoDistillationSettings, train: TrainSettings) -> dict[str, Any]:
    """Plain data that is equal for searches whose candidates can be compared; see `kdhooks.search.studies.study.Study`.

    Where the training stands in the file, and how its batches are loaded, makes no difference.

    Args:
        settings: of ``auto_distillation``.
        train: ``distillation.train``, which holds where the section has no ``train`` of its own.
    """
    train = settings.train or train
    parts = {"flash_distillation": settings.flash, "regular_distillation": settings.regular}
    stages = {name: part for name, part in parts.items() if part is not None}
    found: dict[str, Any] = {name: _stages(part) for name, part in stages.items()}
    if not stages or any(stage.train_steps is None for part in stages.values() for stage in part.stages):
        length = f"{train.end_epoch - train.start_epoch} epochs" if train.steps is None else f"{train.steps} steps"
        found["train"] = length
    return found


def _stages(part: FlashSettings) -> str:
    """The stages of a part in a few letters: how many, how long, and a digest of all that they say."""
    said = asdict(part)
    for stage in said["stages"]:
        del stage["path"]
    steps = [stage.train_steps for stage in part.stages]
    return f"{len(steps)} stages of {steps} steps, {zlib.crc32(told(said).encode()):08x}"
