"""What a user writes about pairs of layers, checked and spread over the pairs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kdhooks.config.known import layers_fault
from kdhooks.config.mappings import LayerPair
from kdhooks.errors import UsageError
from kdhooks.names import Table, did_you_mean, fold
from kdhooks.pairs.parsing import parse_layer_mappings
from kdhooks.registry import REGISTERED_MATCHERS
from kdhooks.schedules import Schedule, constant_value, parse_schedule

_UNMATCHED = frozenset(
    map(
        fold,
        (
            *("attention_kl", "attention_transfer", "correlation_congruence", "crd", "fsp", "mgd", "nst", "pkt"),
            *("review", "rkd", "similarity_preserving", "value_relation", "vid"),
        ),
    )
)
"""Losses that compare relations, or that own what brings both sides together."""


@dataclass(frozen=True)
class PairRules:
    """What a backend knows of losses between features and of feature matchers.

    Attributes:
        feature_loss: the loss of a name, a function or a class with its options as keyword-only arguments; raises
            `UsageError` for a name that is none.
        losses: the backend's own losses, on logits too.
        matchers: the backend's own matchers.
    """

    feature_loss: Callable[[str], Callable[..., Any]]
    losses: Table[Any]
    matchers: Table[Any]

    def check_loss(self, name: str, options: Mapping[str, Any]) -> None:
        """UsageError where there is no such loss, it compares logits only, or it has no such option."""
        known = self._options(name)
        for option in options:
            if option not in known and name in self.losses:
                hint = did_you_mean(option, known, what="Its options")
                raise UsageError(f"the loss {name!r} has no option {option!r}. {hint}".rstrip())

    def has_option(self, name: str, option: str) -> bool:
        """Whether a loss between features has an option of this name."""
        return option in self._options(name)

    def _options(self, name: str) -> list[str]:
        parameters = inspect.signature(self.feature_loss(name)).parameters.values()
        return [one.name for one in parameters if one.kind is one.KEYWORD_ONLY]


class PairOptions:
    """The pairs, and for each of them a loss, a weight and a matcher.

    Args:
        layer_mappings: in any form of `kdhooks.config.mappings`.
        loss_types: for all, for each mapping or for each pair; None is MSE.
        loss_weights: the same way; None is 1 / pairs.
        feature_matchers: the same way; None is ``auto``, or none where the loss needs none.
        rules: of the backend.
        key: what the mappings are called, for messages.
        parse: makes pairs of the mappings.

    Attributes:
        pairs: in the order of the mappings.
        losses: name and options for each pair.
        weights: a schedule for each pair.
        matchers: a name for each pair; ``none`` for a loss that needs none.
        matchers_given: whether the user named matchers.
        scheduled: for each pair the options of its loss that change from step to step.

    Raises:
        UsageError: the first thing that is wrong.
    """

    def __init__(
        self,
        layer_mappings: Any,
        loss_types: Any,
        loss_weights: Any,
        feature_matchers: Any,
        *,
        rules: PairRules,
        key: str,
        parse: Callable[[Any, str], list[LayerPair]] = parse_layer_mappings,
    ) -> None:
        self.rules = rules
        self.pairs: list[LayerPair] = parse(layer_mappings, key)
        self.matchers_given = feature_matchers is not None
        self.losses = [named_loss(one) for one in self._each(loss_types, "loss_types", "MSE")]
        self.check_losses()
        self.scheduled: list[dict[str, Schedule]] = [{} for _ in self.pairs]
        weights = self._each(loss_weights, "loss_weights", 1 / len(self.pairs))
        self.weights: list[Schedule] = [parse_schedule(weight, at_least=0.0) for weight in weights]
        matchers = self._each(feature_matchers, "feature_matchers", None)
        self.matchers = [
            matcher_name(one, loss, rules, several=pair.several)
            for one, (loss, _), pair in zip(matchers, self.losses, self.pairs, strict=True)
        ]
        self._check_layers()

    def check_losses(self) -> None:
        """UsageError where a loss is unknown or has no such option."""
        for name, options in self.losses:
            self.rules.check_loss(name, options)

    def _check_layers(self) -> None:
        for pair, (loss, _), matcher in zip(self.pairs, self.losses, self.matchers, strict=True):
            fault = layers_fault(loss, pair)
            if fault is None and matcher != "none" and len(pair.students) != len(pair.teachers):
                fault = (
                    f"the feature matcher {matcher!r} joins one layer with one, and the pair {pair} has other numbers",
                    "",
                )
            if fault is not None:
                raise UsageError(f"{pair.path}: {fault[0]}. {fault[1]}".rstrip(". "))

    def live(self) -> list[int]:
        """The pairs whose weight is not 0 at every step."""
        return [index for index, weight in enumerate(self.weights) if constant_value(weight) != 0]

    def _each(self, given: Any, key: str, default: Any) -> list[Any]:
        """A value for each pair."""
        pairs, entries = len(self.pairs), self.pairs[-1].entry + 1
        if given is None:
            return [default] * pairs
        if isinstance(given, (str, Mapping, int, float)) or callable(given):
            return [given] * pairs
        values = list(given)
        if len(values) == pairs:
            return values
        if len(values) == entries:
            return [values[pair.entry] for pair in self.pairs]
        if len(values) == 1:
            return values * pairs
        counts = f"{entries} layer mapping{'s' * (entries > 1)}"
        counts += f" (which stand for {pairs} pairs)" if pairs != entries else ""
        raise UsageError(f"{key}: expected one for each of the {counts}, got {len(values)}")


def named_loss(given: Any) -> tuple[str, Mapping[str, Any]]:
    """Name and options of a loss.

    >>> named_loss({"KL": {"temperature": 2.0}})
    ('KL', {'temperature': 2.0})
    """
    if isinstance(given, str):
        return given, {}
    if isinstance(given, Mapping) and len(given) == 1:
        name, options = next(iter(given.items()))
        if isinstance(name, str) and (options is None or isinstance(options, Mapping)):
            return name, dict(options or {})
    raise UsageError(f"loss_types: expected the name of a loss, or a name and its options, got {given!r}")


def needs_matcher(loss: str) -> bool:
    """Whether a pair with this loss has the matcher ``auto`` where none is named.

    >>> needs_matcher("MSE"), needs_matcher("rkd")
    (True, False)
    """
    return fold(loss) not in _UNMATCHED


def matcher_name(given: Any, loss: str, rules: PairRules, *, several: bool = False) -> str:
    """The matcher of a pair by its name in the table.

    Args:
        given: what the user wrote, or None.
        loss: of the pair.
        rules: of the backend.
        several: whether the pair has several layers on a side; then there is no matcher where none is named.

    Raises:
        UsageError: there is none of this name.
    """
    if given is None:
        return "auto" if needs_matcher(loss) and not several else "none"
    known = [*rules.matchers, *REGISTERED_MATCHERS]
    if not isinstance(given, str) or (given not in rules.matchers and given not in REGISTERED_MATCHERS):
        hint = did_you_mean(str(given), known, what="Matchers")
        raise UsageError(f"unknown feature matcher {given!r}. {hint}".rstrip())
    return rules.matchers.name(given) or given
