"""The metrics that a configuration can name: ours, users' own, and all of ``keras.metrics`` by class name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras
import numpy as np

from kdhooks.config.model import Named
from kdhooks.errors import UsageError
from kdhooks.loop.metric_entries import Entry, ks_of, with_classes
from kdhooks.names import Table, did_you_mean, fold
from kdhooks.registry import REGISTERED_METRICS
from kdhooks_tf.class_metrics import ClassCounts, MeanCrossEntropy, MeanError, Perplexity, TopK

METRICS: Table[Callable[..., Any]] = Table("metric")
"""The metrics of ours; users' own are in `kdhooks.registry`, and Keras's go by their class names."""

_OF_NUMBERS = frozenset({"MSE", "RMSE", "MAE"})
_NONE = ("Metric", "Mean", "Sum", "MeanMetricWrapper")


def entries_of(named: Named) -> list[Entry]:
    """The numbers that a name with options stands for; more than one for a list of k."""
    name = METRICS.name(named.name)
    if name == "topk":
        return [_ours(f"top{k}", METRICS["topk"], {"k": k}) for k in ks_of(named.options)]
    if name is not None:
        return [_ours(name, METRICS[name], named.options)]
    registered = REGISTERED_METRICS.name(named.name)
    if registered is not None:
        factory = REGISTERED_METRICS[registered]
        return [Entry(registered, _readable(with_classes(registered, factory, named.options)))]
    return [Entry(named.name, _readable(with_classes(named.name, _keras_class(named), named.options)))]


def _ours(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> Entry:
    form: Literal["classes", "numbers"] = "numbers" if name in _OF_NUMBERS else "classes"
    return Entry(name, with_classes(name, factory, options), form, skips_unlabelled=True)


class KerasMetric:
    """A metric of Keras under the names that ours have.

    Args:
        metric: of ``keras.metrics``.

    Attributes:
        higher_is_better: as Keras says, or None.
    """

    def __init__(self, metric: Any) -> None:
        self.metric = metric
        direction = getattr(metric, "_direction", None)
        self.higher_is_better = None if direction is None else direction == "up"

    def update(self, output: Any, target: Any) -> None:
        """Add a batch."""
        self.metric.update_state(target, output)

    def compute(self) -> Any:
        """The value over all batches."""
        return np.asarray(self.metric.result())


def _readable(build: Callable[[int], Any]) -> Callable[[int], Any]:
    """What builds a metric, a Keras metric of a user's as well, as one with ``update`` and ``compute``."""

    def built(classes: int) -> Any:
        metric = build(classes)
        return KerasMetric(metric) if isinstance(metric, keras.metrics.Metric) else metric

    return built


def _keras_class(named: Named) -> Callable[..., Any]:
    found = {
        name: member
        for name, member in vars(keras.metrics).items()
        if isinstance(member, type) and issubclass(member, keras.metrics.Metric) and name not in _NONE
    }
    by_fold = {fold(name): member for name, member in found.items()}
    if fold(named.name) in by_fold:
        kind: Callable[..., Any] = by_fold[fold(named.name)]
        return kind
    known = [*METRICS, *REGISTERED_METRICS, *(name for name in found if name not in METRICS)]
    raise UsageError(f"unknown metric {named.name!r}. {did_you_mean(named.name, known)}")


@METRICS.register("topk", "top_k")
def _topk(k: int = 1) -> Any:
    return TopK(k)


@METRICS.register("accuracy", "acc")
def _accuracy() -> Any:
    return TopK(1)


@METRICS.register("loss", "cross_entropy")
def _loss() -> Any:
    return MeanCrossEntropy()


@METRICS.register("perplexity")
def _perplexity() -> Any:
    return Perplexity()


def _class_counts(kind: Any) -> Callable[..., Any]:
    def build(average: str = "macro", *, num_classes: int) -> Any:
        if average not in ("macro", "micro", "weighted"):
            raise UsageError(f"{kind}: average must be macro, micro or weighted, not {average!r}")
        return ClassCounts(kind, num_classes, average)  # type: ignore[arg-type]

    return build


def _error(kind: Any) -> Callable[..., Any]:
    return lambda: MeanError(kind)


for _kind in ("F1", "precision", "recall"):
    METRICS.add(_kind, _class_counts(_kind))
for _kind in sorted(_OF_NUMBERS):
    METRICS.add(_kind, _error(_kind))
