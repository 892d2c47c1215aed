"""How deep a list of ``flash_distillation`` is nested decides what it means, by these rules and by nothing else.

- In the list of mappings, an entry is one stage's list of pairs where it holds only lists and mappings, and a pair
  where it holds a text or is a mapping. Pairs alone are one stage. A list of two ``[layer, selector]`` is a pair
  only where a selector is a whole number or a function, because ``[['a', 'b'], ['c', 'd']]`` is a stage of two pairs.
- In every other list there is one entry a stage. Where there is one stage, the brackets around its entry may be left
  out: ``loss_types: [KL, MSE]`` are then the losses of its pairs, as ``[[KL, MSE]]`` are.
- What is no list holds for every stage: ``add_origin_loss: true``.

``regular_distillation`` is read in the same way; it has one stage, as a rule.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdhooks.config.leaves import LayerMappings
from kdhooks.config.rules import Report
from kdhooks.config.source import BROKEN

MAPPINGS = ("layer_mappings_for_knowledge_transfer", "layer_mappings")
"""The classic name of the list of mappings, and ours."""

_SEVERAL = "Write one list of pairs for each stage, as in [[[a, b]], [[c, d]]]"
_OF_PAIRS = ("loss_types", "loss_weights", "feature_matchers")


@dataclass(frozen=True)
class Given:
    """A value and where it stands."""

    value: Any
    path: str


def stages_of(given: Given, report: Report) -> Any:
    """The list of pairs of each stage, by the rules above."""
    value, path = given.value, given.path
    if isinstance(value, Mapping):
        return [given]
    if not isinstance(value, list) or not value:
        return LayerMappings().check(value, path, report)
    kinds = [_is_pair(entry) for entry in value]
    if all(kinds):
        return [given]
    if not any(kinds):
        return [Given(entry, f"{path}[{index}]") for index, entry in enumerate(value)]
    index = kinds.index(not kinds[0])
    first, here = ("a pair", "a stage's list of pairs") if kinds[0] else ("a stage's list of pairs", "a pair")
    message = f"is {here}, and the entry before it is {first}"
    return report.add(f"{path}[{index}]", message, _SEVERAL)


def _is_pair(entry: Any) -> bool:
    """Whether an entry of the list of mappings is a pair, and no stage."""
    if not isinstance(entry, list):
        return entry is not BROKEN
    if any(not isinstance(part, (list, Mapping)) and part is not BROKEN for part in entry):
        return True
    sides = [part for part in entry if isinstance(part, list) and len(part) == 2]
    return len(sides) == len(entry) == 2 and any(not isinstance(side[1], (str, list, Mapping)) for side in sides)


def entries_of(name: str, given: Given, stages: int) -> list[Given] | None:
    """One value for each stage; None where one value holds for all of them."""
    value, path = given.value, given.path
    if not isinstance(value, list):
        return None
    if name in _OF_PAIRS and stages == 1 and not any(isinstance(item, list) for item in value):
        return [given]
    return [Given(item, f"{path}[{index}]") for index, item in enumerate(value)]


def lengths_agree(
    key: str,
    mappings: Sequence[Given],
    lists: Mapping[str, Sequence[Given] | None],
    given: Mapping[str, Given],
    report: Report,
) -> bool:
    """As many entries in each list; where most agree, the others are told.

    Args:
        key: what the mappings are called.
        mappings: of each stage.
        lists: the other lists, by name.
        given: where all of them stand.
        report: gets what is wrong.
    """
    flat = mappings[0] is given[key]
    lengths = {key: len(mappings), **{name: len(entries or ()) for name, entries in lists.items()}}
    counts = Counter(lengths.values())
    right = max(counts, key=lambda length: (counts[length], length == len(mappings)))
    like = next(name for name in lengths if lengths[name] == right)
    usual = "is one stage" if like == key and flat else f"has {right}, one for each stage"
    for name, length in lengths.items():
        if length != right:
            alone = name == key and flat
            has = "is one stage" if alone else "has 1 entry" if length == 1 else f"has {length or 'no'} entries"
            report.add(given[name].path, f"{has}, and {like} {usual}", _SEVERAL if alone else _advice(name))
    return len(counts) == 1


def _advice(name: str) -> str:
    if name in ("block_names", *MAPPINGS):
        return "Write one entry for each stage."
    return "Write one entry for each stage, or one value without a list for all of them."
