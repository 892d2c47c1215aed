"""What ``evaluation.accuracy`` measures: the student on the evaluation data, after an epoch.

Rules: evaluating leaves the generators as they were, so that how often one evaluates does not change what is learned.
The model is called with ``training=False``, in a traced function where the loop's steps are traced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any
from weakref import WeakKeyDictionary, ref

import tensorflow as tf

from kdhooks.config.model import EvaluationSettings
from kdhooks.loop.batches import Batch, split_batch
from kdhooks.loop.parts import located
from kdhooks.loop.training_data import jumps
from kdhooks.messages import logger
from kdhooks_tf.data import as_tensors, build_dataloader
from kdhooks_tf.graphs import current_graph
from kdhooks_tf.metrics import build_metrics
from kdhooks_tf.outputs import as_call
from kdhooks_tf.placement import data_seed, precision_scope
from kdhooks_tf.postprocess import build_postprocess
from kdhooks_tf.training_data import served

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
        self._precision = conf.settings.distillation.train.precision
        loader = self._settings.dataloader
        self._columns = {
            "inputs": conf.settings.model.inputs,
            "input_columns": () if loader is None else loader.input_columns,
        }
        path = "evaluation.accuracy"
        self._metrics = located(conf, path, lambda: build_metrics(self._settings))
        self._postprocess = located(conf, f"{path}.postprocess", lambda: build_postprocess(self._settings.postprocess))
        if distiller.eval_dataloader is None and loader is not None:
            seed = data_seed(conf)
            distiller.eval_dataloader = located(
                conf, f"{path}.dataloader", lambda: build_dataloader(loader, seed=seed, train=False)
            )
        self.loader = distiller.eval_dataloader
        self._generators = distiller.backend
        self._forwards: list[tuple[Any, Any]] = []
        self.higher_is_better: bool = self._metrics.higher_is_better
        self.names: tuple[str, ...] = self._metrics.names
        _say_threads(self._settings)

    def belongs_to(self, distiller: Any) -> bool:
        """Whether this is still what the distiller's configuration and loader mean."""
        return distiller.conf.settings is self._conf_settings and distiller.eval_dataloader is self.loader

    def __call__(self, model: Any) -> tuple[dict[str, float], float, bool]:
        """The metrics by name, their score, and whether a higher score is better."""
        generators = self._generators.rng_state()
        self._metrics.reset()
        try:
            with precision_scope(model, self._precision):
                self._measure(model)
            values = self._metrics.compute()
        finally:
            self._generators.set_rng_state(generators)
        return values, self._metrics.score(values), self.higher_is_better

    def _measure(self, model: Any) -> None:
        forward = self._function(model)
        for parts in self.batches():
            self._metrics.update(*self._postprocess(forward(parts.input), parts.target))

    def batches(self) -> Iterator[Batch]:
        """The batches of the evaluation data as tensors, the same at every evaluation."""
        if jumps(self.loader):
            self.loader.set_epoch(0)
        for batch in islice(served(self.loader), self._settings.iteration):
            columns = self._columns
            if isinstance(batch, (tuple, list)) and len(batch) == 3 and not columns["input_columns"]:
                batch = batch[:2]  # Keras's third is the weight of the samples, which metrics of ours don't take
            yield split_batch(as_tensors(batch), **columns)

    def forward_of(self, model: Any) -> Callable[[Batch], tuple[Any, Any]]:
        """A function that gives a model's output for a batch, and the batch's target, as metrics get them."""
        forward = self._function(model)

        def run(parts: Batch) -> tuple[Any, Any]:
            with precision_scope(model, self._precision):
                found: tuple[Any, Any] = self._postprocess(forward(parts.input), parts.target)
            return found

        return run

    def count_batches(self) -> int | None:
        """How many batches an evaluation looks at, where the loader tells."""
        try:
            count = len(self.loader)
        except TypeError:
            return self._settings.iteration
        return count if self._settings.iteration is None else min(count, self._settings.iteration)

    def _function(self, model: Any) -> Any:
        """The model's forward, traced once for each of the two models that were evaluated last."""
        known = [one for one in self._forwards if one[0]() is not None]
        found = next((one for one in known if one[0]() is model), None) or (ref(model), _forward(ref(model)))
        self._forwards = [found, *(one for one in known if one is not found)][:2]
        return found[1]


def _forward(model: Any) -> Any:
    """A function that keeps no model alive."""

    def forward(given: Any) -> Any:
        args, kwargs = as_call(model(), given)
        return model()(*args, training=False, **kwargs)

    if model().run_eagerly or current_graph() is not None:
        return forward
    return tf.function(forward, reduce_retracing=True, autograph=False)


def _say_threads(settings: EvaluationSettings) -> None:
    if settings.configs.intra_num_of_threads is not None or settings.configs.inter_num_of_threads is not None:
        logger.info(
            "evaluation.accuracy.configs changes nothing: TensorFlow takes its numbers of threads when it begins to "
            "work, from tf.config.threading"
        )
