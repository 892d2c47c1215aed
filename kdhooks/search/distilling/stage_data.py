"""The batches of stages.

Rules: what a configuration describes is read once for all stages and all candidates, and all of them see the same rows
in the same order, as far as their epochs have the same numbers. A candidate never depends on how often its neighbours
were trained, so what has a state of its own is made anew or begins with the stage's seed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

from kdhooks.backend import Backend
from kdhooks.config import DistillationConf
from kdhooks.config.model import DataloaderSettings
from kdhooks.search.distilling.stage_conf import Stage


@dataclass(frozen=True)
class _Made:
    """A loader, and what it was made of."""

    settings: DataloaderSettings
    seed: int
    framework: str
    loader: Any


_MADE: WeakKeyDictionary[DistillationConf, _Made] = WeakKeyDictionary()


def training_data(backend: Backend, stage: Stage, given: Any) -> Any:
    """What a stage is trained on; None where `Distillation.fit` is to build it, for the rank's own share.

    Args:
        backend: of the student.
        stage: whose configuration describes the batches.
        given: the user's batches, or None.

    Raises:
        ConfigError, DataError: they can't be made.
    """
    settings, seed = stage.train.dataloader, stage.conf.settings.tuning.random_seed
    if given is not None or settings is None or settings.distributed or seed is None:
        return given
    made = _MADE.get(stage.conf)
    if made is None or (made.settings, made.seed, made.framework) != (settings, seed, backend.name):
        loader = backend.training_loader(stage.configuration().with_seed(seed))
        made = _MADE[stage.conf] = _Made(settings, seed, backend.name, loader)
    return made.loader
