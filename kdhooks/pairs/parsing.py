"""Layer mappings as a program gives them: pairs, or the first thing that is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kdhooks.config.mappings import LayerPair, layer_groups, layer_pairs
from kdhooks.errors import UsageError
from kdhooks.schedules import Finding


def parse_layer_mappings(value: Any, key: str = "layer_mappings") -> list[LayerPair]:
    """The pairs of a list of mappings.

    Raises:
        UsageError: with the first thing that is wrong.

    >>> [str(pair) for pair in parse_layer_mappings([["layer2", "layer3"], ["head"]])]
    ["'layer2' -> 'layer3'", "'head' -> 'head'"]
    """
    return _checked(*layer_pairs(value, key))


def parse_layer_groups(value: Any, key: str = "layer_mappings") -> list[LayerPair]:
    """The pairs of groups of one model's layers.

    Raises:
        UsageError: with the first thing that is wrong.

    >>> [str(pair) for pair in parse_layer_groups([[["exit1", "exit2"], ["head"]]])]
    ["'exit1' -> 'head'", "'exit2' -> 'head'"]
    """
    return _checked(*layer_groups(value, key))


def _checked(pairs: list[LayerPair], findings: Sequence[Finding]) -> list[LayerPair]:
    if findings:
        finding = findings[0]
        raise UsageError(f"{finding.path}: {finding.message}. {finding.suggestion}".rstrip(". "))
    return pairs
