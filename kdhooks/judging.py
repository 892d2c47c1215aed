"""What an epoch's end asks for: metrics, validators without labels, statistics of the target, the best weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from math import nan
from typing import Any

from kdhooks.domains import VALIDATORS, adapts, validate
from kdhooks.errors import UsageError
from kdhooks.evaluation import read_score
from kdhooks.findings import Findings
from kdhooks.messages import logger
from kdhooks.run import Evaluate, Run


class Judging(Findings):
    """The part of `kdhooks.Distillation` that evaluates; see there."""

    _fitting = False
    _failed = False  # whether a `with` block is left by an exception

    def _running(self, event: str) -> Run:
        if self._run is None or not self._run.attached:
            raise UsageError(f"call on_train_begin() before {event}()")
        return self._run

    def _evaluator(self) -> Evaluate | None:
        """What measures the student, and validators where they are asked for, of which the first gives the score."""
        measure = self._labelled_evaluator()
        adapting = self._adapting()
        names = [] if adapting is None else adapting.settings.validator
        return partial(self._validated, measure, adapting, names) if names else measure

    def _labelled_evaluator(self) -> Evaluate | None:
        """The user's `eval_func`, or inside `fit()` what the YAML describes."""
        function = self.eval_func
        if function is None:
            return self.backend.evaluator(self) if self._fitting else None
        settings = self.conf.settings.evaluation
        higher = settings.metrics[0].higher_is_better if settings is not None and settings.metrics else None
        return lambda model: (*read_score(function(model)), higher is not False)

    def _judge_epoch(self) -> dict[str, Any]:
        run = self._running("on_epoch_end")
        train = self.conf.settings.distillation.train
        due = (run.epoch - run.first_epoch + 1) % train.frequency == 0
        due = due or (self._fitting and train.steps is None and run.epoch == train.end_epoch - 1)
        self._set_statistics()
        evaluate = self._evaluator() if due else None
        if evaluate is None:
            return {"metrics": {}, "score": None, "best": False}
        return run.judge(self._student, evaluate, epoch=run.epoch)

    def _judge_last_epoch(self) -> None:
        """`fit()` returns an evaluated student, whatever ``frequency`` says."""
        evaluate = self._evaluator()
        if self._run is None or self._run.clock.step == 0:
            logger.warning("nothing was distilled: train_func never called on_after_compute_loss")
        elif evaluate is not None and not (self._run.history and self._run.history[-1]["metrics"]):
            last: dict[str, Any] = self._run.history[-1] if self._run.history else {"epoch": self._run.epoch}
            last |= self._run.judge(self._student, evaluate, epoch=last["epoch"])
            self._tell_metrics(last["metrics"], last["epoch"])

    def _tell_metrics(self, metrics: Mapping[str, float], epoch: int) -> None:
        """Who listens to a run is told of an evaluation after its last epoch."""

    def _learning_rate(self) -> float | None:
        """What the record of an epoch says."""
        return self.backend.learning_rate(self.optimizer)

    # ---- the target domain -------------------------------------------------------------------------

    def _adapting(self) -> Any:
        """The criterion of domain adaptation of the run that is under way, or None."""
        run = self._run
        return None if run is None else next(filter(adapts, run.objective.criteria), None)

    def _set_last_statistics(self, run: Run) -> None:
        """AdaBN after steps behind the last epoch's end; the counter is read only where that matters."""
        if self._sets_statistics() and run.clock.steps_in_epoch:
            self._set_statistics()

    def _sets_statistics(self) -> bool:
        adapting = self._adapting()
        return adapting is not None and bool(adapting.sets_statistics)

    def _set_statistics(self) -> None:
        """AdaBN, where it is asked for; generators go on as they were."""
        if not self._sets_statistics():
            return
        loader = self.backend.target_loader(self, evaluation=True)
        loader = self.backend.target_loader(self, evaluation=False) if loader is None else loader
        generators = self.backend.rng_state()
        try:
            self._adapting().set_statistics(loader)
        finally:
            self.backend.set_rng_state(generators)

    def _validated(
        self, measure: Evaluate | None, adapting: Any, names: Sequence[str], model: Any
    ) -> tuple[dict[str, float], float, bool]:
        """Metrics, and the validators' scores of what the model predicts on the target."""
        metrics, score, higher = ({}, nan, True) if measure is None else measure(model)
        loader = self.backend.target_loader(self, evaluation=True)
        logits = adapting.predictions() if loader is None else self.backend.target_logits(self, model, loader)
        if logits is None:
            logger.warning("nothing was predicted on the target in this epoch, so no validator looks at it")
            return metrics, score, higher
        found = validate(logits, names, rows=adapting.settings.validator_rows)
        return {**metrics, **found}, found[names[0]], VALIDATORS[names[0]].higher_is_better
