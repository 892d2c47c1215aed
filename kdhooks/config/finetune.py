"""The section ``finetune``: its keys, and rules for patterns, class maps and epochs."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kdhooks.config import leaves as a
from kdhooks.config.finetune_settings import BehaviourSettings, FinetuneSettings, StartingPointSettings
from kdhooks.config.rules import ListOf, OneOf, Report, Rule, Schedulable, any_broken
from kdhooks.config.sections import Key, Law, Section
from kdhooks.config.source import BROKEN, join
from kdhooks.errors import shown
from kdhooks.names import pattern_of


@dataclass(frozen=True)
class Pattern:
    """A name with wildcards, or ``re:`` and a regular expression; with `regular` always one.

    Attributes:
        regular: whether it is a regular expression without ``re:``.
    """

    regular: bool = False

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The pattern as it was given."""
        if not isinstance(value, str) or not value:
            return report.expected(path, "a regular expression" if self.regular else "the pattern of a name", value)
        try:
            re.compile(value) if self.regular else pattern_of(value)
        except re.error as error:
            advice = r"A point is written '\.', and any text '.*'." if self.regular else ""
            return report.add(path, f"{value!r} is no regular expression: {error}", advice)
        return value


@dataclass(frozen=True)
class ByKey:
    """A mapping of keys of one kind to values of one kind.

    Attributes:
        key: the rule of each key.
        item: the rule of each value.
        expects: the whole, in words.
        together: a further check of a key and its checked value.
    """

    key: Rule
    item: Rule
    expects: str
    together: Callable[[Any, Any, str, Report], Any] = lambda key, value, path, report: value

    def check(self, value: Any, path: str, report: Report) -> Any:
        """A dict in the order of the file."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            return report.expected(path, self.expects, value)
        result = {}
        for name, item in value.items():
            where = join(path, name)
            known = self.key.check(name, where, report)
            held = self.item.check(item, where, report)
            if known is not BROKEN and held is not BROKEN:
                held = self.together(known, held, where, report)
            result[str(name) if known is BROKEN else known] = BROKEN if known is BROKEN else held
        return BROKEN if any_broken(result.values()) else result


@dataclass(frozen=True)
class Prefixes:
    """``auto``, ``none``, or a list of prefixes."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """A word, or a tuple of texts."""
        if isinstance(value, str) and value.lower() in ("auto", "none"):
            return value.lower()
        if isinstance(value, list):
            return ListOf(a.TEXT, "a list of prefixes").check(value, path, report)
        return report.expected(path, "'auto', 'none' or a list of prefixes, as in ['module.', 'bert.']", value)


@dataclass(frozen=True)
class Mismatched:
    """One action for all, or actions by pattern."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The word, or a dict."""
        if isinstance(value, Mapping):
            return ByKey(_PATTERN, _ACTION, "actions by pattern").check(value, path, report)
        return _ACTION.check(value, path, report)


@dataclass(frozen=True)
class Replacement:
    """What takes the place of what a rename rule finds; null leaves the tensor out."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The text, or None."""
        if value is None or isinstance(value, str):
            return value
        return report.expected(path, "text, or null to leave the tensor out", value)


@dataclass(frozen=True)
class Classes:
    """The source's class, or classes, of each of the student's: a list with null for none, or a mapping."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """A dict of the student's classes to tuples of the source's."""
        if isinstance(value, list):
            value = {index: item for index, item in enumerate(value) if item is not None}
            paths = {index: f"{path}[{index}]" for index in value}
        elif isinstance(value, Mapping):
            paths = {index: join(path, index) for index in value}
        else:
            return report.expected(path, "a list of the source's classes, or a mapping from classes to them", value)
        if not value:
            return report.add(path, "names no class of the source")
        result = {}
        for mine, theirs in value.items():
            if not _is_class(mine):
                return report.add(
                    paths[mine], f"expected a class, a whole number from 0, got {shown(mine)}", of_key=True
                )
            several = theirs if isinstance(theirs, list) else [theirs]
            if not several or not all(map(_is_class, several)):
                return report.expected(paths[mine], "a class of the source, or a list of some", theirs)
            result[mine] = tuple(several)
        return result


def _is_class(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _replaces(pattern: str, replacement: Any, path: str, report: Report) -> Any:
    """The rule, tried: a group that the expression has not is found before a name is renamed."""
    try:
        if replacement is not None:
            re.compile(f"{pattern}|").sub(replacement, "")
    except (re.error, IndexError) as error:
        return report.add(path, f"{replacement!r} can't replace what {pattern!r} finds: {error}")
    return replacement


_PATTERN = Pattern()
_PATTERNS = ListOf(_PATTERN, "a list of patterns")
_SOME_PATTERNS = ListOf(_PATTERN, "a list of patterns", least=1)
_ACTION = OneOf({word: word for word in ("skip", "error", "slice", "repeat", "interpolate", "linear", "grid")})
_WEIGHT = Schedulable(at_least=0)
_ALPHA = "alpha; a number or a schedule"
_BETA = "beta, of half the squared norm of what was not transferred"

_L2_SP = Section(
    (
        Key("weight", _WEIGHT, 0.01, f"of half the squared distance to the starting point, {_ALPHA}"),
        Key("new_weight", _WEIGHT, 0.01, _BETA),
    ),
    StartingPointSettings,
)


def _has_layers(values: Mapping[str, Any], path: str, report: Report) -> None:
    if not values.get("layers"):
        report.add(
            path, "names no layers", "Write layers whose features are compared, as in layers: [layer4]", of_key=True
        )


_DELTA = Section(
    (
        Key("layers", ListOf(a.TEXT, "a list of layers", least=1), [], "whose outputs stay near the starting point's"),
        Key("weight", _WEIGHT, 0.01, f"of the distance between feature maps, {_ALPHA}"),
        Key("new_weight", _WEIGHT, 0.01, _BETA),
        Key(
            "channel_weights",
            ByKey(a.TEXT, ListOf(a.NOT_NEGATIVE, "a list of numbers", least=1), "lists of numbers by layer"),
            {},
            "one number a channel, by layer; empty: all alike",
        ),
    ),
    BehaviourSettings,
    laws=(Law(("layers",), _has_layers),),
)

FINETUNE = Section(
    (
        Key("pretrained", a.TEXT, None, "a file of weights; empty: the program sets pretrained_model"),
        Key(
            "rename",
            ByKey(Pattern(regular=True), Replacement(), "regular expressions and what replaces them", _replaces),
            {},
            "regular expressions on the source's names, in order; null leaves tensors out",
        ),
        Key("prefixes", Prefixes(), "auto", "what stands before names of one side: auto, none, or a list"),
        Key("by_order", a.BOOLEAN, False, "match by order and shape what has found nothing by its name"),
        Key("exclude", _PATTERNS, [], "patterns of tensors that keep their own values"),
        Key(
            "on_mismatch", Mismatched(), "skip", "another shape: skip, error, slice, repeat, interpolate; or by pattern"
        ),
        Key("class_map", ByKey(_PATTERN, Classes(), "classes by pattern"), {}, "a head's classes, as in fc: [3, 1, 7]"),
        Key("freeze", _PATTERNS, [], "patterns of what is not trained, as in ['conv1', 'layer1.*']"),
        Key("freeze_batch_norm", a.BOOLEAN, None, "true: every BatchNorm; empty: those in frozen layers; false: none"),
        Key(
            "unfreeze",
            ByKey(a.FROM_ZERO, _SOME_PATTERNS, "patterns by epoch"),
            {},
            "patterns by epoch, as in 2: [layer4]",
        ),
        Key(
            "lr_factors", ByKey(_PATTERN, a.NOT_NEGATIVE, "factors by pattern"), {}, "of the learning rate, by pattern"
        ),
        Key("l2_sp", _L2_SP, None, "weights stay near those that they begin from"),
        Key("delta", _DELTA, None, "features stay near those of the starting point"),
    ),
    FinetuneSettings,
)
"""The section."""
