"""What trains candidates where no function of the user's does: the configuration's stages, or all of it at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kdhooks.config.search_settings import AutoDistillationSettings
from kdhooks.distillation import Distillation
from kdhooks.search.own_conf import conf_of
from kdhooks.search.returned import metrics_of
from kdhooks.search.trial import Report, Stages


class Training:
    """Trains models by ``flash_distillation`` and ``regular_distillation``, or by the section ``distillation``.

    Args:
        agent: the `AutoDistillation`.
        settings: of ``auto_distillation``.
    """

    def __init__(self, agent: Any, settings: AutoDistillationSettings) -> None:
        self._agent, self._settings = agent, settings
        self._conf = conf_of(agent.config, settings)

    def __call__(self, model: Any, report: Report) -> tuple[Any, Stages]:
        """The trained model, and what its stages did."""
        distiller = Distillation(self._conf, student_model=model, teacher_model=self._agent.teacher_model)
        distiller.writes_files = False
        self._prepare(distiller, report)
        trained = distiller.fit()
        losses = distiller.history[-1]["losses"] if distiller.history else {}
        return trained, ({"block": "", "steps": distiller.step, "losses": losses},)

    def _prepare(self, distiller: Distillation, report: Report) -> None:
        """Give a distiller the data, and the pruner its scores."""
        distiller.train_dataloader = self._agent.train_dataloader
        distiller.eval_dataloader = self._agent.eval_dataloader
        if self._settings.search.pruner is None:
            return
        if self._agent.eval_func is not None:
            distiller.eval_func = self._scored(self._agent.eval_func)
        distiller.register_hook("on_epoch_end", self._told(report))

    def _scored(self, eval_func: Callable[[Any], Any]) -> Callable[[Any], float]:
        """The first metric that a user's function returns, with a sign such that more is better."""
        search = self._settings.search
        name, sign = search.metrics[0], 1.0 if search.higher_is_better[0] else -1.0
        return lambda model: sign * metrics_of(eval_func(model), search.metrics)[name]

    def _told(self, report: Report) -> Callable[[Distillation], None]:
        sign = 1.0 if self._agent.eval_func is None or self._settings.search.higher_is_better[0] else -1.0
        name = self._settings.search.metrics[0]

        def tell(distiller: Distillation) -> None:
            record = distiller.history[-1]
            if record["score"] is not None:
                value = record["metrics"].get(name, record["score"])
                report(len(distiller.history) - 1, sign * value)

        return tell
