"""What judges candidates where no function of the user's does: the configuration's evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kdhooks.backend import Evaluator, backend_of
from kdhooks.config import DistillationConf
from kdhooks.config.search_settings import AutoDistillationSettings
from kdhooks.distillation import Distillation
from kdhooks.errors import ConfigError
from kdhooks.names import did_you_mean

SCORE = "accuracy"
"""The metric of a search that stands for the evaluation's score, where no metric has this name."""


class Evaluating:
    """Evaluates models by ``auto_distillation.evaluation``, or the section ``evaluation``.

    Args:
        agent: the `AutoDistillation`.
        settings: of ``auto_distillation``.
    """

    def __init__(self, agent: Any, settings: AutoDistillationSettings) -> None:
        self._agent, self._settings = agent, settings
        self._loader: Any = None

    def __call__(self, model: Any, names: Sequence[str]) -> dict[str, float]:
        """The metrics of a model by name.

        Raises:
            ConfigError: nothing evaluates, or not these metrics.
        """
        evaluate = self._evaluator(model, names)
        with backend_of(model).evaluation_mode(model):
            values, score, _ = evaluate(model)
        return {name: values.get(name, score) for name in names}

    def check(self, model: Any, names: Sequence[str]) -> None:
        """Make ready what evaluates, before anything is trained.

        Raises:
            ConfigError: nothing evaluates, or not these metrics.
        """
        self._evaluator(model, names)

    @property
    def loader(self) -> Any:
        """The evaluation data: the user's, or the configuration's once they were read."""
        return self._loader if self._agent.eval_dataloader is None else self._agent.eval_dataloader

    def conf_with(self, seed: int | None = None) -> DistillationConf:
        """The configuration with what ``auto_distillation`` says of loop and evaluation in the place of the file's own.

        A candidate never continues a checkpoint, which would be another candidate's.

        Args:
            seed: of the loop; None leaves the file's.
        """
        conf: DistillationConf = self._agent.config
        own = self._settings
        whole = conf.settings
        tuning = replace(whole.tuning, resume=False, tensorboard=False)
        if seed is not None and whole.tuning.random_seed is not None:
            tuning = replace(tuning, random_seed=seed)
        distillation = replace(whole.distillation, train=own.train or whole.distillation.train)
        evaluation = own.evaluation or whole.evaluation
        return conf.with_settings(replace(whole, distillation=distillation, evaluation=evaluation, tuning=tuning))

    def _evaluator(self, model: Any, names: Sequence[str]) -> Evaluator:
        distiller = Distillation(self.conf_with(), student_model=model)
        distiller.eval_dataloader = self.loader
        evaluate = backend_of(model).evaluator(distiller)
        if evaluate is None:
            advice = "Set eval_func, or write the section evaluation with a dataloader."
            raise self._problem(f"nothing judges {' and '.join(names)}", advice)
        self._loader = distiller.eval_dataloader  # the data are read once
        for name in names:
            if name not in evaluate.names and name != SCORE:
                advice = did_you_mean(name, [*evaluate.names, SCORE], what="It gives")
                raise self._problem(f"the evaluation gives no {name!r}", advice)
        return evaluate

    def _problem(self, message: str, advice: str) -> ConfigError:
        problem: ConfigError = self._agent.config.problem("auto_distillation.search.metrics", message, advice)
        return problem
