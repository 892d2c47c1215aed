"""The section ``domain_adaptation``: adapters by name, and how the target domain's batch is run.

Which options an adapter has is the backend's to know; here stand those that all of them share.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from kdhooks.adaptation import ADAPTER_RULES, AdapterRules, WarmStart
from kdhooks.config import leaves as a
from kdhooks.config.expressions import Wrong
from kdhooks.config.known import VALIDATORS
from kdhooks.config.layer_taps import layer_tap
from kdhooks.config.model import AdaptationSettings, AdversarySettings, Named
from kdhooks.config.rules import ListOf, Report, Schedulable
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
    """The options that are an adapter's own, checked against its rules."""

    rules: AdapterRules

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The options as they were given."""
        given = {key: item for key, item in value.items() if item is not BROKEN}
        findings = self.rules.problems(given)
        for finding in findings:
            report.add(join(path, finding.path), finding.message, finding.suggestion, of_key=finding.of_key)
        return BROKEN if findings or len(given) < len(value) else given


def _one_kind_of_layers(values: Mapping[str, Any], path: str, report: Report) -> None:
    if values.get("layer") is not None and values.get("layers") is not None:
        message = "stands beside layer, and only one of them can be meant"
        report.add(join(path, "layers"), message, "Keep one of them.", of_key=True)


def _adapter(
    rules: AdapterRules,
    *,
    rest: Mapping[str, Any],
    layer: Any = None,
    layers: Any = None,
    weight: Any = None,
    encoder: str | None = None,
    head: str | None = None,
) -> dict[str, Any]:
    taps = layers if layers is not None else () if layer is None else (layer,)
    weight = rules.weight if weight is None else weight
    return {"rules": rules, "layers": taps, "weight": weight, "encoder": encoder, "head": head, "options": rest}


def adapter_section(rules: AdapterRules) -> Section:
    """What may stand below the name of an adapter: a layer, a weight, parts of the student, and its own options."""
    layer, several = "the student's layer whose features are aligned; empty: its logits", "several layers"
    return Section(
        (
            Key("layer", LayerName(), None, layer),
            Key("layers", ListOf(LayerName(), "a list of layers", least=1), None, several),
            Key("weight", Schedulable(at_least=0), rules.weight, "a number or a schedule"),
            Key("encoder", a.TEXT, None, "the student's feature extractor"),
            Key("head", a.TEXT, None, "the student's layer that makes the logits"),
        ),
        partial(_adapter, rules),
        laws=(
            Law(("layer", "layers"), _one_kind_of_layers),
            Law(("layer", "layers", "encoder", "head"), partial(_fits, rules)),
        ),
        rest=_Options(rules),
    )


def _fits(rules: AdapterRules, values: Mapping[str, Any], path: str, report: Report) -> None:
    """As many layers as the adapter looks at, and the parts of the student that it needs."""
    for part in rules.modules:
        if values.get(part) is None:
            advice = f"Write the name of its layer, as in {part}: {'fc' if part == 'head' else 'features'}"
            report.add(path, f"has no {part}, and {rules.title} needs the student's {part}", advice, of_key=True)
    given, (least, most) = _count(values), rules.layers
    if given < least:
        needs = "a layer" if least == 1 else f"{least} layers"
        advice = "Write the layer's name, as in layer: avgpool" if least == 1 else "Write layers: [...]"
        report.add(path, f"names {given or 'no layer'}, and {rules.title} compares {needs}", advice, of_key=True)
    elif most is not None and given > most:
        looks = "only the logits" if most == 0 else f"{most} layer{'s' * (most > 1)} at most"
        where = join(path, "layers" if values.get("layers") is not None else "layer")
        report.add(where, f"names {given}, and {rules.title} looks at {looks}", "Remove it.", of_key=True)


def _count(values: Mapping[str, Any]) -> int:
    return len(values["layers"]) if values.get("layers") is not None else int(values.get("layer") is not None)


@dataclass(frozen=True)
class AdapterNames(Names):
    """Adapters by name, each with its options."""

    def _named(self, name: object, options: Any, path: str, above: str, report: Report) -> Any:
        if not isinstance(name, str) or not name:
            return report.expected(path, "the name of an adapter", name, f"Put it in quotes: '{name}'")
        if name not in ADAPTER_RULES:
            suggestion = did_you_mean(name, ADAPTER_RULES, what="Known")
            return report.add(path, f"unknown adapter {name!r}", suggestion, of_key=True)
        checked = adapter_section(ADAPTER_RULES[name]).check(options, path, report)
        return BROKEN if checked is BROKEN else Named(name, checked, path)


def _rises(values: Mapping[str, Any], path: str, report: Report) -> None:
    low, high = values.get("low", 0.0), values.get("high", 1.0)
    if low > high:
        report.add(join(path, "low"), f"is {low:g}, which is above high, {high:g}", "Write a low of at most high.")


REVERSAL = Section(
    (
        Key("low", a.NOT_NEGATIVE, 0.0, "the coefficient at the first step"),
        Key("high", a.NOT_NEGATIVE, 1.0, "the coefficient that it comes close to"),
        Key("alpha", a.POSITIVE, 10.0, "how fast it rises"),
        Key("steps", a.FROM_ONE, 1000, "training steps of the warm start"),
    ),
    WarmStart,
    laws=(Law(("low", "high"), _rises),),
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
            Key("target_labels", a.BOOLEAN, False, "whether the labels of dataloader train the student, in fit()"),
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
