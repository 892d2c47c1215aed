"""Which of a student's tensors are frozen at which epoch, and by which factor their learning rate is multiplied."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kdhooks.config.finetune_settings import FinetuneSettings
from kdhooks.names import pattern_of


def chosen(patterns: Iterable[str], names: Iterable[str]) -> frozenset[str]:
    """The names that patterns mean.

    >>> sorted(chosen(["layer1", "*.bias"], ["layer1.weight", "layer2.weight", "layer2.bias"]))
    ['layer1.weight', 'layer2.bias']
    """
    compiled = [pattern_of(pattern) for pattern in patterns]
    return frozenset(name for name in names if any(pattern.fullmatch(name) for pattern in compiled))


def frozen_at(epoch: int, settings: FinetuneSettings, names: Iterable[str]) -> frozenset[str]:
    """The names that are frozen in an epoch: those of ``freeze``, and what ``unfreeze`` has not yet set free."""
    known = list(names)
    later = [one for first, several in settings.unfreeze.items() if first > epoch for one in several]
    earlier = [one for first, several in settings.unfreeze.items() if first <= epoch for one in several]
    return chosen((*settings.freeze, *later), known) - chosen(earlier, known)


def factor_of(name: str, factors: Mapping[str, float]) -> float:
    """The factor of the first pattern that fits a name, or 1."""
    return next((factor for pattern, factor in factors.items() if pattern_of(pattern).fullmatch(name)), 1.0)


def grouped(names: Iterable[str], factors: Mapping[str, float]) -> dict[float, list[str]]:
    """The names by factor, in the order in which factors come up."""
    groups: dict[float, list[str]] = {}
    for name in names:
        groups.setdefault(factor_of(name, factors), []).append(name)
    return groups
