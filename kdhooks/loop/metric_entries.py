"""What evaluation measures, by name, before a framework computes it.

Rules: a metric's factory takes options by keyword, and ``num_classes`` where it asks for it. Names and options are
tried out when the set is built, not after the first epoch of training.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from kdhooks.config.model import MetricSettings
from kdhooks.datasets import UNLABELLED
from kdhooks.datasets.options import call_with_options, whole
from kdhooks.errors import UsageError

TRIAL_CLASSES = 1000
"""Stands in for the number of classes where names and options are tried out before it is known."""


@dataclass
class Entry:
    """One number that is measured.

    Attributes:
        name: of the number.
        build: from the number of classes (0: there are none) to the metric.
        form: what the metric is of: logits with class numbers, plain numbers, or either.
        skips_unlabelled: the metric itself leaves out class numbers of -100.
        metric: the metric at work; None before the first batch.
    """

    name: str
    build: Callable[[int], Any]
    form: Literal["classes", "numbers", "any"] = "any"
    skips_unlabelled: bool = False
    metric: Any = None


def ks_of(options: Mapping[str, Any]) -> list[int]:
    """The numbers k of ``topk: 1`` and ``topk: [1, 5]``."""
    given = call_with_options("metric", "topk", lambda k=1: k, options)
    values = given if isinstance(given, (list, tuple)) and given else [given]
    return [whole("topk: k", value, least=1) for value in values]


def parameters_of(factory: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """What a factory takes; nothing where it does not say."""
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):
        return {}


def with_classes(name: str, factory: Callable[..., Any], options: Mapping[str, Any]) -> Callable[[int], Any]:
    """A function from the number of classes to the metric, with what its factory takes besides the options."""
    parameters = parameters_of(factory)

    def build(classes: int) -> Any:
        ours = {"num_classes": classes, "ignore_index": UNLABELLED, "validate_args": False}
        given = {key: value for key, value in ours.items() if key in parameters and (key != "num_classes" or classes)}
        # torchmetrics has one switch for checking options and every batch; the trial is where it checks.
        if classes == TRIAL_CLASSES and "validate_args" in parameters:
            given["validate_args"] = True
        try:
            return call_with_options("metric", name, factory, {**given, **options}, closed=True)
        except (ValueError, TypeError) as problem:
            raise UsageError(f"the metric {name!r} refuses its options: {problem}") from None

    return build


def better_when_higher(name: str, metric: Any, setting: MetricSettings) -> bool:
    """Whether a metric is better when it is higher: as the settings say, or as the metric does."""
    for member in ("update", "compute"):
        if not callable(getattr(metric, member, None)):
            raise UsageError(f"the metric {name!r} must have update(output, target) and compute(); it has no {member}")
    higher = setting.higher_is_better
    if higher is None:
        higher = getattr(metric, "higher_is_better", None)
    if higher is None:
        raise UsageError(f"the metric {name!r} does not say whether higher is better: set its higher_is_better")
    return bool(higher)


class Scores:
    """The numbers of one or more metrics, and how they become one score.

    Args:
        settings: the metrics with their weights.
        entries_of: the entries of one named metric.

    Attributes:
        names: of the numbers, in order.
        higher_is_better: of the score: of the one metric, or true where several are weighed together.
    """

    def __init__(self, settings: Sequence[MetricSettings], entries_of: Callable[[Any], list[Entry]]) -> None:
        if not settings:
            raise UsageError("evaluation needs at least one metric")
        self._entries: list[Entry] = []
        self._shares: list[tuple[str, float, bool]] = []
        for setting in settings:
            entries = [self._renamed(entry) for entry in entries_of(setting.metric)]
            higher = [better_when_higher(entry.name, entry.build(TRIAL_CLASSES), setting) for entry in entries]
            self._shares.append((entries[0].name, setting.weight, higher[0]))
        self.names = tuple(entry.name for entry in self._entries)
        self.higher_is_better = self._shares[0][2] if len(settings) == 1 else True

    def _renamed(self, entry: Entry) -> Entry:
        """Add an entry under a name that no other has."""
        taken = {other.name for other in self._entries}
        name, number = entry.name, 2
        while entry.name in taken:
            entry.name, number = f"{name}_{number}", number + 1
        self._entries.append(entry)
        return entry

    def score(self, values: Mapping[str, float]) -> float:
        """One number of what `compute` returned.

        The value of the only metric; of several, the sum of weight times value, where metrics of which lower is
        better count negative. Of ``topk: [1, 5]`` the first counts.
        """
        if len(self._shares) == 1:
            return values[self._shares[0][0]]
        return sum(weight * (values[name] if higher else -values[name]) for name, weight, higher in self._shares)
