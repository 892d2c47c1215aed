"""What ``evaluation.accuracy`` measures: the student on the evaluation data, after an epoch.

Rules: evaluating leaves the generators as they were, so that how often one evaluates does not change what is
learned; and the numbers of threads. Every rank of a distributed run evaluates all of the data and comes to the
same score.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from kdhooks.config.model import EvaluationSettings, ThreadSettings
from kdhooks.domains import VALIDATORS, adapts
from kdhooks.loop.batches import Batch, split_batch
from kdhooks.loop.parts import located
from kdhooks.messages import logger
from kdhooks.speed import Choice
from kdhooks.torch.data import EpochLoader, build_dataloader
from kdhooks.torch.memory_format import input_layout
from kdhooks.torch.metrics import build_metrics
from kdhooks.torch.outputs import as_call
from kdhooks.torch.placement import autocast, batch_mover, data_seed
from kdhooks.torch.postprocess import build_postprocess
from kdhooks.torch.student_choice import choice_of

_MADE: WeakKeyDictionary[Any, Evaluation] = WeakKeyDictionary()


def evaluator(distiller: Any) -> Evaluation | None:
    """What evaluates a model as the configuration says; None where there are no data to evaluate on.

    Metrics and loader are built once, and again when the user sets another loader or configuration.

    Raises:
        ConfigError: an unknown metric, dataset or transform, or options that don't fit.
    """
    settings = distiller.conf.settings.evaluation
    if distiller.eval_dataloader is None and (settings is None or settings.dataloader is None):
        return None
    made = _MADE.get(distiller)
    if made is None or not made.belongs_to(distiller):
        made = _MADE[distiller] = Evaluation(distiller)
    return made


def score_is_higher_better(distiller: Any) -> bool | None:
    """Which way the score of `fit()` improves, or None where nothing is evaluated."""
    adapting = next(filter(adapts, distiller.summed_criteria()), None)
    if adapting is not None and adapting.settings.validator:
        return VALIDATORS[adapting.settings.validator[0]].higher_is_better
    if distiller.eval_func is not None:
        settings = distiller.conf.settings.evaluation
        return settings is None or not settings.metrics or settings.metrics[0].higher_is_better is not False
    made = evaluator(distiller)
    return None if made is None else made.higher_is_better


class Evaluation:
    """Calls a model on the evaluation data and measures.

    Args:
        distiller: the `Distillation` whose configuration and ``eval_dataloader`` are used; where it has none, the
            configuration's loader is built and set there.

    Attributes:
        higher_is_better: of the score.
        names: of the metrics.
        loader: of the evaluation data.
    """

    def __init__(self, distiller: Any) -> None:
        conf = distiller.conf
        self._conf_settings = conf.settings
        self._settings: EvaluationSettings = conf.settings.evaluation or EvaluationSettings()
        asked = conf.settings.distillation.train.precision
        self._choice = Choice(None if asked == "auto" else asked)  # of a model that the built-in loop doesn't train
        loader = self._settings.dataloader
        self._columns = {
            "inputs": conf.settings.model.inputs,
            "input_columns": () if loader is None else loader.input_columns,
        }
        path = "evaluation.accuracy"
        _use_interop_threads(self._settings.configs.inter_num_of_threads)
        self._metrics = located(conf, path, lambda: build_metrics(self._settings))
        self._postprocess = located(conf, f"{path}.postprocess", lambda: build_postprocess(self._settings.postprocess))
        if distiller.eval_dataloader is None and loader is not None:
            seed = data_seed(conf)
            distiller.eval_dataloader = located(
                conf, f"{path}.dataloader", lambda: build_dataloader(loader, seed=seed, train=False)
            )
        self.loader = distiller.eval_dataloader
        self._generators = distiller.backend
        self.higher_is_better: bool = self._metrics.higher_is_better
        self.names: tuple[str, ...] = self._metrics.names

    def belongs_to(self, distiller: Any) -> bool:
        """Whether this is still what the distiller's configuration and loader mean."""
        return distiller.conf.settings is self._conf_settings and distiller.eval_dataloader is self.loader

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> tuple[dict[str, float], float, bool]:
        """The metrics by name, their score, and whether a higher score is better; the model is in eval mode."""
        generators = self._generators.rng_state()
        self._metrics.reset()
        try:
            with threads(self._settings.configs):
                self._measure(model)
            values = self._metrics.compute()
        finally:
            self._generators.set_rng_state(generators)
        return values, self._metrics.score(values), self.higher_is_better

    @contextmanager
    def by_itself(self) -> Iterator[None]:
        """Within the block metrics don't gather what other processes have, which are not evaluating."""
        self._metrics.alone = True
        try:
            yield
        finally:
            self._metrics.alone = False

    def _measure(self, model: nn.Module) -> None:
        forward = self.forward_of(model)
        for parts in self.batches():
            self._metrics.update(*forward(parts))

    def batches(self) -> Iterator[Batch]:
        """The batches of the evaluation data, the same at every evaluation."""
        if isinstance(self.loader, EpochLoader):
            self.loader.set_epoch(0)
        for batch in islice(self.loader, self._settings.iteration):
            yield split_batch(batch, **self._columns)

    def forward_of(self, model: nn.Module) -> Callable[[Batch], tuple[Any, Any]]:
        """A function that gives a model's output for a batch, and the batch's target, as metrics get them."""
        first = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
        move = batch_mover(first)
        choice = choice_of(model) or self._choice
        lay = input_layout(choice.channels_last)

        def forward(parts: Batch) -> tuple[Any, Any]:
            args, kwargs = as_call(lay(move(parts.input)))
            with autocast(choice.precision, first):
                output = model(*args, **kwargs)
            found: tuple[Any, Any] = self._postprocess(output, move(parts.target))
            return found

        return forward

    def count_batches(self) -> int | None:
        """How many batches an evaluation looks at, where the loader tells."""
        try:
            count = len(self.loader)
        except TypeError:
            return self._settings.iteration
        return count if self._settings.iteration is None else min(count, self._settings.iteration)


def _use_interop_threads(count: int | None) -> None:
    if count is None or count == torch.get_num_interop_threads():
        return
    try:
        torch.set_num_interop_threads(count)
    except RuntimeError:  # torch allows it once, before its first parallel work, and never back
        logger.info("inter_num_of_threads stays %d: torch has begun to work", torch.get_num_interop_threads())


@contextmanager
def threads(settings: ThreadSettings) -> Iterator[None]:
    """Within the block torch computes with ``intra_num_of_threads``."""
    before = torch.get_num_threads()
    if settings.intra_num_of_threads is not None:
        torch.set_num_threads(settings.intra_num_of_threads)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)
