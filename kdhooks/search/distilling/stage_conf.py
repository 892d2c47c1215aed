"""The configuration of one stage: the user's, with the stage's criterion and length.

Rule: whatever is wrong with a stage is shown where the user wrote it, in ``auto_distillation``.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.config.model import Named, Settings, TrainSettings
from kdhooks.config.search_settings import StageSettings
from kdhooks.config.source import join, parent
from kdhooks.errors import ConfigError, LayerError

CRITERION = "IntermediateLayersKnowledgeDistillationLoss"
_TRAIN, _OWN_TRAIN = "distillation.train", "auto_distillation.train"
_CRITERION = f"{_TRAIN}.criterion.{CRITERION}"
_MAPPINGS = ("layer_mappings", "layer_mappings_for_knowledge_transfer")
_LEFT_OUT = ("auto_distillation", "finetune", "domain_adaptation", "evaluation")


class StageConf(DistillationConf):
    """A user's configuration with other settings, whose problems are shown in the user's file.

    Args:
        conf: the user's.
        settings: of the stage.
        place: path in these settings -> path in the user's configuration.
    """

    def __init__(self, conf: DistillationConf, settings: Settings, place: Callable[[str], str]) -> None:
        super().__init__(conf)
        data = {key: value for key, value in self.to_dict().items() if key not in _LEFT_OUT}
        own = self.to_dict().get("auto_distillation")
        if isinstance(own, dict) and own.get("train") is not None:
            data["distillation"] = {**(data.get("distillation") or {}), "train": own["train"]}
        self._base, self._settings, self._place = conf, settings, place
        self._source = replace(self._source, data=data)

    def with_seed(self, seed: int) -> StageConf:
        """The same with another seed."""
        settings = replace(self._settings, tuning=replace(self._settings.tuning, random_seed=seed))
        return StageConf(self._base, settings, self._place)

    def problem(self, path: str, message: str, suggestion: str = "", *, of_key: bool = False) -> ConfigError:
        """The error to raise for a problem of the stage; it points at the user's line."""
        return self._base.problem(self._place(path), message, suggestion, of_key=of_key)


@dataclass(frozen=True)
class Stage:
    """A stage at its place in a distillation.

    Attributes:
        conf: the user's configuration.
        kind: ``flash`` or ``regular``.
        number: among the stages of its part, from 0.
        settings: what it trains, on which pairs of layers, for how long.
    """

    conf: DistillationConf
    kind: str
    number: int
    settings: StageSettings

    @property
    def train(self) -> TrainSettings:
        """The loop of every stage."""
        own = self.conf.settings.auto_distillation
        train = self.conf.settings.distillation.train
        return train if own is None or own.train is None else own.train

    def configuration(self, *, epoch: int = 0, seed: int | None = None) -> StageConf:
        """The configuration of a `Distillation` that trains this stage alone.

        Args:
            epoch: the number of its first epoch.
            seed: of all stages; each has one of its own, made of it. None takes the configuration's.
        """
        given, settings = self.conf.settings, self.train
        criterion = Named(CRITERION, self.settings.criterion, path=_CRITERION)
        steps = settings.steps if self.settings.train_steps is None else self.settings.train_steps
        end = epoch + settings.end_epoch - settings.start_epoch
        train = replace(
            settings, criterion=(criterion,), start_epoch=epoch, end_epoch=end, steps=steps, checkpoint_steps=None
        )
        seed = given.tuning.random_seed if seed is None else seed
        tuning = replace(
            given.tuning, resume=False, tensorboard=False, random_seed=None if seed is None else self._seed(seed)
        )
        left_out: dict[str, Any] = dict.fromkeys(_LEFT_OUT)
        distillation = replace(given.distillation, train=train)
        return StageConf(
            self.conf, replace(given, distillation=distillation, tuning=tuning, **left_out), self._place_of
        )

    def option_problem(self, option: str, error: LayerError) -> ConfigError:
        """The error about an option of the criterion, or a part of one, at the user's line."""
        return self.conf.problem(self._place_of_option(option), error.message, error.advice)

    def problem(self, error: LayerError) -> ConfigError:
        """The error about the name of the stage's block, at the user's line."""
        path = self._found(f"block_names[{self.number}]", "block_names") or self.settings.path
        return self.conf.problem(path, error.message, error.advice)

    def _seed(self, seed: int) -> int:
        return zlib.crc32(f"{seed} {self.kind} {self.number}".encode())

    def _place_of(self, path: str) -> str:
        if path == _CRITERION or path.startswith(f"{_CRITERION}."):
            return self._place_of_option(path.removeprefix(_CRITERION).removeprefix("."))
        own = self.conf.settings.auto_distillation
        inside = path == _TRAIN or path.startswith(f"{_TRAIN}.")
        return _OWN_TRAIN + path.removeprefix(_TRAIN) if inside and own is not None and own.train is not None else path

    def _place_of_option(self, option: str) -> str:
        """Where an option of the criterion, or a part of one, stands in the user's configuration."""
        found = re.match(r"(\w*)(.*)", option, re.DOTALL)
        key, rest = (found[1], found[2]) if found is not None else ("", "")
        if key in ("", *_MAPPINGS):
            return self.settings.path + rest if self.settings.path else option
        ways = (f"{key}[{self.number}]{rest}", f"{key}{rest}", f"{key}[{self.number}]", key)
        return self._found(*ways) or self.settings.path or option

    def _found(self, *keys: str) -> str | None:
        """The first of several keys that the user has written beside the stage's mappings, or above them."""
        section = parent(self.settings.path.removesuffix(f"[{self.number}]"))
        ways = [join(around, key) for key in keys for around in (section, parent(section))]
        return next((way for way in ways if self.conf.has(way)), None)
