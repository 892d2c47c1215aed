"""Layer mappings: every form in which a pair of layers may be written, and patterns for repeated blocks.

Framework-free: it knows spellings, never a model. Like a schedule, a mapping gives its problems with
paths, so that a configuration can point at the line.

Forms of an entry:

- ``[layer]``: the same name in both models; ``''`` is the root module.
- ``[student, teacher]``, ``[student, selector, teacher, selector]``,
  ``[[student, selector], [teacher, selector]]``.
- ``{student: ..., teacher: ..., calls: last}``, where each side is a layer or ``[layer, selector]``; further
  keys are the variables of a pattern: ``{student: 'encoder.{i}', teacher: 'encoder.{2*i+1}', i: 0..5}``.
- ``{student_layers: [...], teacher_layers: [...]}``: several layers a side, for the losses that compare them; each is
  a layer or ``[layer, selector]``, and a pattern stands for a pair for each value of its variables. One text in place
  of each list stands for one pair of the layers of all values: ``student_layers: 'layer{i}'``.

A layer's name followed by ``:input`` means what goes into the layer instead of what comes out of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from kdhooks.config.expressions import Wrong
from kdhooks.config.layer_taps import LayerPair, LayerTap, Selector, layer_tap
from kdhooks.config.patterns import CALLS, MOST, written_with_keys
from kdhooks.errors import shown
from kdhooks.schedules import Finding

__all__ = ["CALLS", "MOST", "LayerPair", "LayerTap", "Selector", "hidden_tap", "layer_groups", "layer_pairs", "taps_of"]

_FORMS = "[student layer, teacher layer]"
_GROUP = "[[shallow layers], [deepest layer]]"


def layer_pairs(value: Any, key: str = "layer_mappings") -> tuple[list[LayerPair], list[Finding]]:
    """The pairs of a list of mappings, and what is wrong with it.

    Args:
        value: a list of entries, or one entry as a mapping.
        key: what the list is called, for paths.

    >>> pairs, findings = layer_pairs([{"student": "a.{i}", "teacher": "b.{2*i+1}", "i": "0..1"}])
    >>> [(pair.student.layer, pair.teacher.layer) for pair in pairs], findings
    ([('a.0', 'b.1'), ('a.1', 'b.3')], [])
    """
    alone = isinstance(value, Mapping)
    entries = [value] if alone else value
    if isinstance(entries, str) or not isinstance(entries, Sequence) or not entries:
        got = "none" if entries == [] or entries == () else shown(entries)
        return [], [Finding(key, f"expected a list of layer mappings, each as in {_FORMS}, got {got}")]
    pairs: list[LayerPair] = []
    findings: list[Finding] = []
    for index, entry in enumerate(entries):
        path = key if alone else f"{key}[{index}]"
        try:
            for pair in _pairs(entry, index, path):
                pairs.append(pair)
                if len(pairs) > MOST:
                    raise Wrong(path, f"the mappings stand for more than {MOST} pairs")
        except Wrong as wrong:
            findings.append(wrong.finding)
    return pairs, findings


def layer_groups(value: Any, key: str = "layer_mappings") -> tuple[list[LayerPair], list[Finding]]:
    """The pairs of groups of layers of one model, and what is wrong with them.

    A group is ``[[shallow, ...], [deepest]]``, or a list of pairs ``[[shallow, deepest], ...]``, each as `layer_pairs`
    takes it.

    Args:
        value: a list of groups.
        key: what the list is called, for paths.

    Returns:
        Pairs whose `entry` is their group's index, and findings.

    >>> pairs, findings = layer_groups([[["exit1", "exit2"], ["head"]], [["block1", "block3"], ["block2", "block3"]]])
    >>> [(pair.entry, str(pair)) for pair in pairs][:3], findings
    ([(0, "'exit1' -> 'head'"), (0, "'exit2' -> 'head'"), (1, "'block1' -> 'block3'")], [])
    """
    if isinstance(value, str) or not isinstance(value, Sequence) or not value:
        got = "none" if value == [] or value == () else shown(value)
        return [], [Finding(key, f"expected a list of groups of layers, each as in {_GROUP}, got {got}")]
    pairs: list[LayerPair] = []
    findings: list[Finding] = []
    for index, group in enumerate(value):
        path = f"{key}[{index}]"
        try:
            found = list(_group(group, index, path))
            for pair in found:
                if [(tap.key, tap.selector) for tap in pair.students] == [
                    (tap.key, tap.selector) for tap in pair.teachers
                ]:
                    itself = (
                        "the layer {} would follow itself"
                        if not pair.several
                        else "the layers {} would follow themselves"
                    )
                    raise Wrong(pair.path, itself.format(str(pair).split(" -> ")[0]))
            pairs += found
        except Wrong as wrong:
            findings.append(wrong.finding)
    return pairs, findings


def taps_of(criterion: str, options: Mapping[str, Any], role: str) -> list[tuple[str, LayerTap]]:
    """What a criterion looks at in one model: the place in its options, and the layer.

    Args:
        criterion: its name in a configuration.
        options: its checked options.
        role: ``student`` or ``teacher``.

    >>> taps_of("IntermediateLayersKnowledgeDistillationLoss", {"layer_mappings": [["a", "b"]]}, "teacher")[0][1].layer
    'b'
    """
    if criterion == "SelfKnowledgeDistillationLoss":
        pairs, _ = layer_groups(options.get("layer_mappings"))
        sides = [side for pair in pairs for side in (*pair.students, *pair.teachers)] if role == "student" else []
        return [(side.path, side) for side in sides]
    if criterion == "LargeVocabularyDistillationLoss":
        return [hidden_tap(options, role)]
    key = next((key for key in ("layer_mappings", "layer_mappings_for_knowledge_transfer") if options.get(key)), None)
    pairs, _ = layer_pairs(options[key], key) if key is not None else ([], [])
    return [(pair.path, tap) for pair in pairs for tap in (pair.students if role == "student" else pair.teachers)]


def hidden_tap(options: Mapping[str, Any], role: str) -> tuple[str, LayerTap]:
    """Which option says where a model's last hidden states are, and the layer: what goes into its head, or another."""
    if options.get(f"{role}_hidden") is not None:
        return f"{role}_hidden", layer_tap(options[f"{role}_hidden"], f"{role}_hidden")
    key = f"{role}_head" if options.get(f"{role}_head") else "student_head"
    return key, replace(layer_tap(options[key], key), input=True)


def _group(group: Any, index: int, path: str) -> Iterator[LayerPair]:
    if not _is_list(group) or not group or not all(_is_list(item) or isinstance(item, Mapping) for item in group):
        got = "none" if group == [] else shown(group)
        advice = ""
        if _is_list(group) and len(group) == 2 and all(isinstance(item, str) for item in group):
            advice = f"Write one more pair of brackets: [[{group[0]}, {group[1]}]]"
        raise Wrong(path, f"expected a group of layers as in {_GROUP}, got {got}", advice)
    if len(group) == 2 and all(map(_is_list, group)) and len(group[1]) == 1:
        deepest = layer_tap(group[1][0], f"{path}[1][0]")
        if not group[0]:
            raise Wrong(f"{path}[0]", "expected one shallow layer or more, got none")
        for position, item in enumerate(group[0]):
            where = f"{path}[0][{position}]"
            yield LayerPair(layer_tap(item, where), deepest, "last", index, where)
        return
    for position, item in enumerate(group):
        yield from _pairs(item, index, f"{path}[{position}]")


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _pairs(entry: Any, index: int, path: str) -> Iterator[LayerPair]:
    if isinstance(entry, Mapping):
        return written_with_keys(entry, index, path)
    return iter([_listed(entry, index, path)])


def _listed(entry: Any, index: int, path: str) -> LayerPair:
    if isinstance(entry, str) or not isinstance(entry, Sequence):
        raise Wrong(path, f"expected a mapping as in {_FORMS}, got {shown(entry)}", _bracket(entry))
    if len(entry) == 1:
        side = layer_tap(entry[0], f"{path}[0]")
        return LayerPair(side, side, "last", index, path)
    if len(entry) == 2:
        return LayerPair(layer_tap(entry[0], f"{path}[0]"), layer_tap(entry[1], f"{path}[1]"), "last", index, path)
    if len(entry) == 4:
        student = layer_tap([entry[0], entry[1]], f"{path}[0]", f"{path}[1]")
        teacher = layer_tap([entry[2], entry[3]], f"{path}[2]", f"{path}[3]")
        return LayerPair(student, teacher, "last", index, path)
    raise Wrong(
        path,
        f"a mapping has 1, 2 or 4 parts, not {len(entry)}",
        "Write [student layer, selector, teacher layer, selector]; '' selects the whole output.",
    )


def _bracket(entry: Any) -> str:
    return f"Write [{entry}] for the same name in both models." if isinstance(entry, str) else ""
