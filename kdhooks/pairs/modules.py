"""What one pair of layers is compared with, as far as no framework matters: matchers, a mask and a loss."""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdhooks.criterion import Step
from kdhooks.pairs.masks import MaskRules, Shape

Tensor = Any

SEED = 20_000
"""The first pair's parameters are drawn from this seed, the second's from the next one, and so on."""

_FURTHER = 5_000  # between the seeds of the layers of one pair; there are at most 4096 pairs
_EXTRAS = ("target", "sample_ids", "sample_weight")


def seed_of(index: int, level: int = 0) -> int:
    """The seed of the matcher of one layer of a pair."""
    return SEED + index + _FURTHER * level


@dataclass(frozen=True)
class Given:
    """What a pair's loss gets at one step besides features.

    Attributes:
        mask: positions that count, or None.
        asked: whether the user asked for this mask; then it must fit.
        options: of the loss, that change from step to step.
    """

    mask: Tensor | None = None
    asked: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


class ComparedPair:
    """What a backend's modules of a pair build on.

    Attributes:
        masks: of the backend.
        several: whether there are several layers on a side.
        shapes: of the student's and of the teacher's features, one for each layer.
    """

    masks: MaskRules
    several: bool
    shapes: tuple[list[Any], list[Any]]
    _loss: Any
    _kind: str
    _taken: frozenset[str]

    def take_loss(self, name: str, loss: Any, called: Callable[..., Any]) -> None:
        """Compare with a loss, of which `called` has the parameters."""
        self._loss, self._kind = loss, name
        self._taken = frozenset(inspect.signature(called).parameters)

    @abstractmethod
    def matched(self, level: int, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """The features of one layer of both sides behind its matcher, where there is one, of one dtype."""

    @abstractmethod
    def blanked(self, feature: Tensor, mask: Tensor) -> Tensor:
        """A feature with zeros at the positions that don't count."""

    def with_heads(self, feature: Tensor) -> Tensor:
        """Attention [N, heads, T, T] with the heads where this backend has channels."""
        return feature

    def compared(self, students: Sequence[Tensor], teachers: Sequence[Tensor], step: Step, given: Given) -> Tensor:
        """The loss of the features of both sides, one for each layer."""
        mine, theirs = list(students), list(teachers)
        if len(mine) == len(theirs):
            pairs = [self.matched(level, *one) for level, one in enumerate(zip(mine, theirs, strict=True))]
            mine, theirs = [one for one, _ in pairs], [other for _, other in pairs]
        extras: dict[str, Any] = {key: getattr(step, key) for key in _EXTRAS if key in self._taken}
        extras.update(given.options)
        if given.mask is not None:
            if given.asked:
                mine, theirs = ([self._oriented(one, given.mask) for one in side] for side in (mine, theirs))
            if "mask" in self._taken:
                extras["mask"] = self._fitted(given.mask, mine[0], given.asked)
            elif given.asked:
                mine, theirs = ([self._without(one, given.mask) for one in side] for side in (mine, theirs))
        return self._loss(*((mine, theirs) if self.several else (mine[0], theirs[0])), **extras)

    def _oriented(self, feature: Tensor, mask: Tensor) -> Tensor:
        heads = self.masks.has_heads(mask, self._kind, _shape(feature))
        return self.with_heads(feature) if heads else feature

    def _fitted(self, mask: Tensor, feature: Tensor, asked: bool) -> Tensor | None:
        return self.masks.fitted(mask, self._kind, _shape(feature), asked=asked)

    def _without(self, feature: Tensor, mask: Tensor) -> Tensor:
        """For losses that take no mask: zeros on both sides add nothing to sums over positions."""
        fitting = self._fitted(mask, feature, True)
        return feature if fitting is None else self.blanked(feature, fitting)


def _shape(feature: Tensor) -> Shape:
    return list(feature.shape)
