"""The stages of ``flash_distillation`` and ``regular_distillation``; `search_nesting` says how lists are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kdhooks.config import laws
from kdhooks.config import leaves as a
from kdhooks.config.criteria import INTERMEDIATE
from kdhooks.config.layer_taps import LayerTap
from kdhooks.config.mappings import taps_of
from kdhooks.config.rules import Report, Rule, any_broken
from kdhooks.config.search_nesting import MAPPINGS, Given, entries_of, lengths_agree, stages_of
from kdhooks.config.search_settings import AutoDistillationSettings, FlashSettings, StageSettings
from kdhooks.config.sections import Key, Section
from kdhooks.config.source import BROKEN, join
from kdhooks.names import did_you_mean

NESTED = "knowledge_transfer"
"""The classic place of a stage's keys, inside of the section."""


def _rule(name: str) -> Rule:
    """The criterion's own rule of an option."""
    key = INTERMEDIATE.key(name)
    if key is None:
        raise LookupError(name)
    return key.rule


STAGE_KEYS = (
    Key("block_names", a.BLOCK, [], "the layer whose parameters a stage trains, for each; empty: all parameters"),
    Key(MAPPINGS[0], _rule("layer_mappings"), None, "a list of pairs for each stage, or the pairs of one stage"),
    Key(MAPPINGS[1], _rule("layer_mappings"), None, "another name of it"),
    Key("loss_types", _rule("loss_types"), None, "a list for each stage, one for each pair; empty: MSE"),
    Key("loss_weights", _rule("loss_weights"), None, "a list for each stage, one for each pair; empty: 1 / pairs"),
    Key("add_origin_loss", a.BOOLEAN, False, "whether the loop's own loss counts; one for all stages, or for each"),
    Key("train_steps", a.FROM_ONE, None, "batches, for all stages or for each; empty: the epochs of train"),
    Key("feature_matchers", _rule("feature_matchers"), None, "a list for each stage; empty: auto"),
    Key("feature_mask", _rule("feature_mask"), None, "key of the input whose mask says which tokens count"),
)
"""What a stage has; each rule is that of one stage's value."""

_STAGE_NAMES = tuple(key.name for key in STAGE_KEYS)


class Redirected(Report):
    """Reports what a law finds in one stage where the stage's values stand.

    Args:
        report: gets the problems.
        places: the path of each value, by the path that the law uses.
    """

    def __init__(self, report: Report, places: Mapping[str, str]) -> None:
        self._report, self._places = report, places
        self.source = report.source

    def add(self, path: str, message: str, suggestion: str = "", *, of_key: bool = False) -> Any:
        """Note a problem at the value's own place."""
        inside = [place for place in self._places if path == place or path.startswith((f"{place}[", f"{place}."))]
        place = inside[0] if inside else ""
        return self._report.add(self._places[place] + path[len(place) :], message, suggestion, of_key=of_key)


@dataclass(frozen=True)
class Stages(Section):
    """A section of stages, whose keys may also stand inside of ``knowledge_transfer``.

    `build` gets the stages, and what its other keys hold.
    """

    def check(self, value: Any, path: str, report: Report) -> Any:
        """What `build` makes, or `BROKEN`."""
        if value is not None and not isinstance(value, Mapping):
            return super().check(value, path, report)
        value = value or {}
        given, broken = self._flat(value, path, report)
        others = {}
        for key in self.keys:
            if key.name not in _STAGE_NAMES and key.name in given:
                found = given.pop(key.name)
                others[key.name] = self._checked(key.name, found.value, found.path, report)
        given = {name: found for name, found in given.items() if found.value is not None}
        inner = value.get(NESTED)
        if given or (others.get("regular_distillation") is None and (inner is None or isinstance(inner, Mapping))):
            others["stages"] = _stages(given, join(path, NESTED) if inner else path, report)
        return BROKEN if broken or any_broken(others.values()) else self.build(**others)

    def _flat(self, value: Mapping[Any, Any], path: str, report: Report) -> tuple[dict[str, Given], bool]:
        """All known keys with their places; whether there was something else."""
        given: dict[str, Given] = {}
        broken = False
        inner = value.get(NESTED)
        for name, item in value.items():
            where = join(path, name)
            if name == NESTED:
                continue
            if self.key(name) is None:
                self._checked(name, item, where, report)
                broken = True
            else:
                given[name] = Given(item, where)
        if inner is None:
            return given, broken
        where = join(path, NESTED)
        if not isinstance(inner, Mapping):
            if inner is not BROKEN:
                report.expected(where, "a mapping", inner, f"Keys here: {', '.join(_STAGE_NAMES)}")
            return given, True
        for name, item in inner.items():
            broken = self._nested(name, item, join(where, name), given, report) or broken
        return given, broken

    def _nested(self, name: Any, item: Any, where: str, given: dict[str, Given], report: Report) -> bool:
        """Take a key of the classic place; whether it can't be taken."""
        if name in given:
            report.add(where, f"stands above {NESTED} as well", "Keep one of them.", of_key=True)
        elif name == "regular_distillation" and self.key(name) is not None:
            report.add(where, "is no key of a stage", f"Move it beside {NESTED}.", of_key=True)
        elif not any(key.name == name for key in self.keys):
            report.add(where, "unknown key", did_you_mean(str(name), _STAGE_NAMES, what="Keys here"), of_key=True)
        else:
            given[name] = Given(item, where)
            return False
        return True


def _stages(given: Mapping[str, Given], path: str, report: Report) -> Any:
    """The stages, or `BROKEN`."""
    places = {"": path, **{name: found.path for name, found in given.items()}}
    names = [name for name in MAPPINGS if name in given]
    if len(names) != 1:
        laws.one_kind_of_mappings(dict.fromkeys(names, ()), "", Redirected(report, places))
        return BROKEN
    mappings = stages_of(given[names[0]], report)
    count = 1 if mappings is BROKEN else len(mappings)
    entries = {name: entries_of(name, given[name], count) for name in given if name not in MAPPINGS}
    lists = {name: found for name, found in entries.items() if found or (found == [] and name != "block_names")}
    shared = {name: _checked(name, given[name], report) for name, found in entries.items() if found is None}
    if mappings is BROKEN or not lengths_agree(names[0], mappings, lists, given, report):
        found_here = lists if mappings is BROKEN else {names[0]: mappings, **lists}
        for name, found in found_here.items():
            for entry in found or ():
                _checked(name, entry, report)
        return BROKEN
    stages = [
        _stage(mapping, {name: found[index] for name, found in lists.items() if found}, shared, report)
        for index, mapping in enumerate(mappings)
    ]
    return BROKEN if any_broken(stages) else tuple(stages)


def _checked(name: str, given: Given, report: Report) -> Given:
    """One stage's value, checked."""
    rule = next(key.rule for key in STAGE_KEYS if key.name == name)
    return Given(rule.check(given.value, given.path, report), given.path)


def _stage(mappings: Given, mine: Mapping[str, Given], shared: Mapping[str, Given], report: Report) -> Any:
    """The settings of one stage, or `BROKEN`.

    Args:
        mappings: its pairs.
        mine: what lists have for it.
        shared: what holds for all stages, checked already.
        report: gets what is wrong.
    """
    found = {"layer_mappings": _checked("layer_mappings", mappings, report), **shared}
    found |= {name: _checked(name, given, report) for name, given in mine.items()}
    values = {key.name: found[key.name].value for key in STAGE_KEYS if key.name in found}
    block, steps = values.pop("block_names", ""), values.pop("train_steps", None)
    if not any_broken((values["layer_mappings"], values.get("loss_types"))):
        sound = {name: value for name, value in values.items() if value is not BROKEN}
        laws.pairs_agree(sound, "", Redirected(report, {name: given.path for name, given in found.items()}))
    if any_broken((block, steps, *values.values())):
        return BROKEN
    return StageSettings(block, values, steps, mappings.path)


def _regular(*, stages: Any, **values: Any) -> FlashSettings:
    return FlashSettings(stages, **values)


@dataclass(frozen=True)
class Distillations:
    """What ``flash_distillation`` holds: its own stages, and those of a regular distillation inside of it."""

    flash: FlashSettings | None
    regular: FlashSettings | None


def _flash(*, stages: Any = None, regular_distillation: FlashSettings | None = None, **values: Any) -> Distillations:
    return Distillations(None if stages is None else FlashSettings(stages, **values), regular_distillation)


@dataclass(frozen=True)
class Inside:
    """A section at another place, described once where it belongs.

    Attributes:
        section: its rule; None where the section that it stands in takes it apart.
    """

    section: Section | None = None

    def check(self, value: Any, path: str, report: Report) -> Any:
        """What the section makes of it."""
        return value if self.section is None else self.section.check(value, path, report)


_CLASSIC = Key(NESTED, Inside(), None, "the classic place of the keys above")
_FREEZE = Key("freeze_earlier", a.BOOLEAN, True, "whether a stage trains its own block alone, not earlier ones again")
REGULAR = Stages((*STAGE_KEYS, _FREEZE, _CLASSIC), _regular)
"""``regular_distillation``."""

FLASH = Stages(
    (
        *STAGE_KEYS,
        _FREEZE,
        Key("share_blocks", a.BOOLEAN, False, "a block begins as an earlier candidate's of the same shape ended"),
        _CLASSIC,
        Key("regular_distillation", Inside(REGULAR), None, "the classic place of the section beside this one"),
    ),
    _flash,
)
"""``flash_distillation``."""


def stage_taps(settings: AutoDistillationSettings, role: str) -> list[tuple[str, LayerTap]]:
    """What the stages look at in one model: the place of each pair in the configuration, and the layer.

    Args:
        settings: of the search.
        role: ``student`` or ``teacher``.
    """
    name = "IntermediateLayersKnowledgeDistillationLoss"
    taps = [(stage.path, found) for stage in settings.stages for found in taps_of(name, stage.criterion, role)]
    return [(where + path.removeprefix("layer_mappings"), tap) for where, (path, tap) in taps]
