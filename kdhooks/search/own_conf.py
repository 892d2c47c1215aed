"""The configuration that holds for every candidate of a search."""

from __future__ import annotations

from dataclasses import replace

from kdhooks.config import DistillationConf
from kdhooks.config.search_settings import AutoDistillationSettings


def conf_of(conf: DistillationConf, settings: AutoDistillationSettings) -> DistillationConf:
    """A configuration with what ``auto_distillation`` says of loop and evaluation in the place of the file's own.

    A candidate never continues a checkpoint, which would be another candidate's.
    """
    whole = conf.settings
    train = settings.train or whole.distillation.train
    return conf.with_settings(
        replace(
            whole,
            distillation=replace(whole.distillation, train=train),
            evaluation=settings.evaluation or whole.evaluation,
            tuning=replace(whole.tuning, resume=False),
        )
    )
