"""What judges candidates where no function of the user's does: the configuration's evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdhooks.backend import backend_of
from kdhooks.config.search_settings import AutoDistillationSettings
from kdhooks.distillation import Distillation
from kdhooks.errors import ConfigError
from kdhooks.names import did_you_mean
from kdhooks.search.own_conf import conf_of

SCORE = "accuracy"
"""The metric of a search that stands for the evaluation's score, where no metric has this name."""


class Evaluating:
    """Evaluates models by ``auto_distillation.evaluation``, or the section ``evaluation``.

    Args:
        agent: the `AutoDistillation`.
        settings: of ``auto_distillation``.

    Attributes:
        conf: the configuration with what holds for candidates in its place.
    """

    def __init__(self, agent: Any, settings: AutoDistillationSettings) -> None:
        self._agent = agent
        self.conf = conf_of(agent.config, settings)
        self._loader: Any = None

    def __call__(self, model: Any, names: Sequence[str]) -> dict[str, float]:
        """The metrics of a model by name.

        Raises:
            ConfigError: nothing evaluates, or not these metrics.
        """
        distiller = Distillation(self.conf, student_model=model)
        given = self._agent.eval_dataloader
        distiller.eval_dataloader = self._loader if given is None else given
        backend = backend_of(model)
        evaluate = backend.evaluator(distiller)
        if evaluate is None:
            advice = "Set eval_func, or write the section evaluation with a dataloader."
            raise self._problem(f"nothing judges {' and '.join(names)}", advice)
        with backend.evaluation_mode(model):
            values, score, _ = evaluate(model)
        if given is None:
            self._loader = distiller.eval_dataloader  # the data are read once
        return {name: self._value(name, values, score) for name in names}

    def _value(self, name: str, values: Mapping[str, float], score: float) -> float:
        if name in values:
            return values[name]
        if name == SCORE:
            return score
        advice = did_you_mean(name, [*values, SCORE], what="It gives")
        raise self._problem(f"the evaluation gives no {name!r}", advice)

    def _problem(self, message: str, advice: str) -> ConfigError:
        return self._agent.config.problem("auto_distillation.search.metrics", message, advice)
