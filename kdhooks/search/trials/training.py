"""What trains candidates where no function of the user's does: the configuration's stages, or all of it at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

from kdhooks.config.search_settings import AutoDistillationSettings
from kdhooks.distillation import Distillation
from kdhooks.messages import warnings_only
from kdhooks.search.distilling.blocks import BlockBank
from kdhooks.search.distilling.scheduler import Scheduler
from kdhooks.search.distilling.stages import parts_of
from kdhooks.search.trials.evaluating import Evaluating
from kdhooks.search.trials.returned import metrics_of
from kdhooks.search.trials.trial import Report, Stages

Judge = Callable[[Any], float]


class Training:
    """Trains models by ``flash_distillation`` and ``regular_distillation``, or by the section ``distillation``.

    Args:
        agent: the `AutoDistillation`, whose teacher and data are used.
        settings: of ``auto_distillation``.
        evaluating: what judges a model where the user's function does not.
    """

    def __init__(self, agent: Any, settings: AutoDistillationSettings, evaluating: Evaluating) -> None:
        self._agent, self._settings, self._evaluating = agent, settings, evaluating
        self._bank: BlockBank | None = None

    def __call__(self, model: Any, seed: int, writer: str, report: Report) -> tuple[Any, Stages]:
        """The trained model, and what its stages did.

        Args:
            model: that learns.
            seed: of all its stages.
            writer: who has trained a shared block: the candidate's architecture.
            report: takes a score after an epoch, where a pruner wants one.
        """
        with warnings_only():
            if self._settings.flash is None and self._settings.regular is None:
                return self._whole(model, seed, report)
            return self._staged(model, seed, writer, report)

    def commit(self) -> None:
        """Let later candidates begin with the blocks of the one that was trained last."""
        if self._bank is not None:
            self._bank.commit()

    def _staged(self, model: Any, seed: int, writer: str, report: Report) -> tuple[Any, Stages]:
        shares = any(part is not None and part.share_blocks for part in (self._settings.flash, self._settings.regular))
        self._bank = BlockBank(self._agent.config.workspace / "blocks", writer) if shares else None
        options: dict[str, Any] = {"teacher_model": self._agent.teacher_model, "seed": seed, "bank": self._bank}
        if self._settings.search.pruner is not None:
            options |= {"eval_func": self._judge(), "on_epoch_end": _telling(report)}
        parts = parts_of(self._agent.config, train_dataloader=self._agent.train_dataloader, **options)
        scheduler = Scheduler()
        scheduler.combine(*parts)
        scheduler.student_model = model
        trained = scheduler()
        return trained, tuple(scheduler.history)

    def _whole(self, model: Any, seed: int, report: Report) -> tuple[Any, Stages]:
        conf = self._evaluating.conf_with(seed)
        distiller = Distillation(conf, student_model=model, teacher_model=self._agent.teacher_model)
        distiller.writes_files = False
        distiller.train_dataloader = self._agent.train_dataloader
        distiller.eval_dataloader = self._evaluating.loader
        if self._settings.search.pruner is not None:
            if self._agent.eval_func is not None:
                distiller.eval_func = self._signed(self._judge())
            distiller.register_hook("on_epoch_end", self._hook(report))
        trained = distiller.fit()
        losses: Mapping[str, float] = distiller.history[-1]["losses"] if distiller.history else {}
        return trained, ({"kind": "whole", "block": "", "steps": distiller.step, "losses": losses},)

    def _judge(self) -> Judge:
        """What gives a model's first metric while it is trained."""
        names, eval_func = self._settings.search.metrics, self._agent.eval_func
        if eval_func is None:
            return lambda model: self._evaluating(model, names[:1])[names[0]]
        return lambda model: metrics_of(eval_func(model), names)[names[0]]

    @property
    def _sign(self) -> float:
        return 1.0 if self._settings.search.higher_is_better[0] else -1.0

    def _signed(self, judge: Judge) -> Judge:
        """The score of a user's function as `Distillation` compares it: more is better."""
        return lambda model: self._sign * judge(model)

    def _hook(self, report: Report) -> Callable[[Distillation], None]:
        numbers, name = count(), self._settings.search.metrics[0]
        sign = 1.0 if self._agent.eval_func is None else self._sign

        def tell(distiller: Distillation) -> None:
            number, record = next(numbers), distiller.history[-1]
            if record["score"] is not None:
                report(number, sign * record["metrics"].get(name, record["score"]))

        return tell


def _telling(report: Report) -> Callable[[Any], None]:
    """What a part calls after an epoch; epochs are counted over all parts."""
    numbers = count()

    def tell(event: Any) -> None:
        number = next(numbers)
        if event.score is not None:
            report(number, event.score)

    return tell
