"""The section ``domain_adaptation``: adapters by name, and how the target domain's batch is run.

Which options an adapter has is the backend's to know; here stand those that all of them share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdhooks.config import leaves as a
from kdhooks.config.expressions import Wrong
from kdhooks.config.known import ADAPTERS, ADAPTER_PARTS, VALIDATORS
from kdhooks.config.layer_taps import layer_tap
from kdhooks.config.model import AdaptationSettings, AdversarySettings, Named, ReversalSettings
from kdhooks.config.rules import ListOf, Report, Schedulable, any_broken
from kdhooks.config.sections import Key, Law, Names, Section
from kdhooks.config.source import BROKEN, join
from kdhooks.names import did_you_mean


@dataclass(frozen=True)
class LayerName:
    """A layer as taps name it, or a layer and its selector."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """A `LayerTap`."""
        try:
            return layer_tap(value, path)
        except Wrong as wrong:
            finding = wrong.finding
            return report.add(finding.path, finding.message, finding.suggestion)


@dataclass(frozen=True)
class KnownName:
    """A name of a table."""

    table: Any

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The name as the table spells it."""
        if not isinstance(value, str):
            return report.expected(path, f"the name of a {self.table.what}", value)
        known = self.table.name(value)
        if known is None:
            hint = did_you_mean(value, self.table, what="Known")
            return report.add(path, f"unknown {self.table.what} {value!r}", hint)
        return known


@dataclass(frozen=True)
class _Options:
    """The options that are an adapter's own, as plain data."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The options as they were given."""
        return BROKEN if any_broken(value.values()) else dict(value)


def _one_kind_of_layers(values: Mapping[str, Any], path: str, report: Report) -> None:
    if values.get("layer") is not None and values.get("layers") is not None:
        message = "stands beside layer, and only one of them can be meant"
        report.add(join(path, "layers"), message, "Keep one of them.", of_key=True)


def _adapter(
    *,
    rest: Mapping[str, Any],
    layer: Any = None,
    layers: Any = None,
    weight: Any = 1.0,
    encoder: str | None = None,
    head: str | None = None,
) -> dict[str, Any]:
    taps = layers if layers is not None else () if layer is None else (layer,)
    return {"layers": taps, "weight": weight, "encoder": encoder, "head": head, "options": rest}


ADAPTER = Section(
    (
        Key("layer", LayerName(), None, "the student's layer whose features are aligned; empty: its logits"),
        Key("layers", ListOf(LayerName(), "a list of layers", least=1), None, "several layers"),
        Key("weight", Schedulable(at_least=0), 1.0, "a number or a schedule"),
        Key("encoder", a.TEXT, None, "the student's feature extractor, for methods that need it"),
        Key("head", a.TEXT, None, "the student's layer that makes the logits, for methods that need it"),
    ),
    _adapter,
    laws=(Law(("layer", "layers"), _one_kind_of_layers),),
    rest=_Options(),
)
"""What may stand below the name of an adapter, besides its own options."""


@dataclass(frozen=True)
class AdapterNames(Names):
    """Adapters by name, each with its options."""

    def _named(self, name: object, options: Any, path: str, above: str, report: Report) -> Any:
        if not isinstance(name, str) or not name:
            return report.expected(path, "the name of an adapter", name, f"Put it in quotes: '{name}'")
        known = ADAPTERS.name(name)
        if known is None:
            suggestion = did_you_mean(name, ADAPTERS, what="Known")
            return report.add(path, f"unknown adapter {name!r}", suggestion, of_key=True)
        checked = ADAPTER.check(options, path, report)
        if checked is BROKEN:
            return BROKEN
        for part in ADAPTER_PARTS.get(known, ()):
            if checked[part] is None:
                example = "fc" if part == "head" else "features"
                message = f"has no {part}, and {known} needs to know this part of the student"
                return report.add(path, message, f"Write the layer's name, as in {part}: {example}", of_key=True)
        return Named(known, checked, path)


REVERSAL = Section(
    (
        Key("low", a.NOT_NEGATIVE, 0.0, "the coefficient at the first step"),
        Key("high", a.NOT_NEGATIVE, 1.0, "the coefficient that it comes close to"),
        Key("alpha", a.POSITIVE, 10.0, "how fast it rises"),
        Key("steps", a.FROM_ONE, 1000, "training steps of the warm start"),
    ),
    ReversalSettings,
)
ADVERSARY = Section(
    (
        Key("steps", a.FROM_ONE, 1, "of the adversary's optimizer before each step of the student"),
        Key("optimizer", Names("optimizer"), {"Adam": {"learning_rate": 0.001}}, "any class of the framework by name"),
    ),
    AdversarySettings,
)


def domain_adaptation(dataloader: Section) -> Section:
    """The section; its dataloaders are described as all are.

    Args:
        dataloader: the rule of a dataloader.
    """
    return Section(
        (
            Key("criterion", AdapterNames("adapter", many=True, least=1), None, "adapters by name; several are summed"),
            Key("joint_forward", a.BOOLEAN, False, "both domains go through the student in one batch"),
            Key("alternating", a.BOOLEAN, False, "adversaries take steps of their own, as in the papers"),
            Key("adversary", ADVERSARY, {}, "the steps of adversaries where alternating is true"),
            Key("reversal", REVERSAL, {}, "the warm start of the gradient's reversal"),
            Key("gather", a.BOOLEAN, True, "ranks that train together see the features of all of them"),
            Key("target_label_weight", Schedulable(at_least=0), 1.0, "of the cross-entropy of labelled target rows"),
            Key("ignore_index", a.WHOLE, -100, "target rows with this label have none"),
            Key("a_distance", a.BOOLEAN, False, "report the proxy A-distance of discriminators"),
            Key(
                "validator",
                ListOf(KnownName(VALIDATORS), "a list of validators", alone=True),
                [],
                "entropy, SND or information_maximization: chooses the best epoch without labels",
            ),
            Key("validator_rows", a.FROM_ONE, 4096, "rows of the target domain that validators look at, at most"),
            Key("dataloader", dataloader, None, "the target domain's training data, cycled beside the source's"),
            Key("eval_dataloader", dataloader, None, "the target domain's data for validators and AdaBN"),
        ),
        _settings,
        laws=(Law(("criterion",), _has_adapters),),
    )


def _has_adapters(values: Mapping[str, Any], path: str, report: Report) -> None:
    if not values.get("criterion"):
        advice = "Write adapters, as in criterion: {DANN: {layer: avgpool}}"
        report.add(path, "has no criterion, so no domain is adapted to", advice, of_key=True)


def _settings(*, validator: Any = (), **values: Any) -> AdaptationSettings:
    names = (validator,) if isinstance(validator, str) else tuple(validator or ())
    return AdaptationSettings(validator=names, **values)
