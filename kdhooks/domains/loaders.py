"""The target domain's loaders: what a user has set, or what the configuration names, made once for a `Distillation`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from kdhooks.config.model import DataloaderSettings
from kdhooks.loop.parts import located

_MADE: WeakKeyDictionary[Any, dict[tuple[bool, bool], tuple[Any, Any]]] = WeakKeyDictionary()


def loader_of(
    distiller: Any, build: Callable[[DataloaderSettings], Any], *, evaluation: bool, trains: bool = False
) -> Any:
    """The target domain's batches, or None.

    Args:
        distiller: the `Distillation`.
        build: makes a loader; of the backend.
        evaluation: whether those for validators are meant, not those to train on.
        trains: whether a run will be in the middle of a pass over it, so that nobody else may begin one.

    Raises:
        ConfigError: an unknown dataset or transform, or options that don't fit.
    """
    given = distiller.target_eval_dataloader if evaluation else distiller.target_dataloader
    section = distiller.conf.settings.domain_adaptation
    settings = None if section is None else section.eval_dataloader if evaluation else section.dataloader
    if given is not None or settings is None:
        return given
    made = _MADE.setdefault(distiller, {})
    key = (evaluation, trains)
    if key not in made or made[key][0] is not settings:
        path = f"domain_adaptation.{'eval_' if evaluation else ''}dataloader"
        made[key] = settings, located(distiller.conf, path, lambda: build(settings))
    return made[key][1]
