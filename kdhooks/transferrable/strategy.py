"""What is transferred: the names of e2eAIOK's Model Adaptor."""

from __future__ import annotations

from enum import Enum


class TransferStrategy(Enum):
    """Which kinds of transfer work together in one loop.

    Attributes:
        finetunes: whether pretrained weights are the starting point.
        distills: whether a teacher is followed.
        adapts: whether a target domain is learned from.
    """

    OnlyFinetuneStrategy = 1
    OnlyDistillationStrategy = 10
    OnlyDomainAdaptionStrategy = 20
    FinetuneAndDomainAdaptionStrategy = 30
    DistillationAndDomainAdaptionStrategy = 40

    @property
    def finetunes(self) -> bool:
        """Whether pretrained weights are the starting point."""
        return "Finetune" in self.name

    @property
    def distills(self) -> bool:
        """Whether a teacher is followed."""
        return "Distillation" in self.name

    @property
    def adapts(self) -> bool:
        """Whether a target domain is learned from."""
        return "DomainAdaption" in self.name


ALL_STRATEGIES = tuple(TransferStrategy)
"""All five, in their order."""
