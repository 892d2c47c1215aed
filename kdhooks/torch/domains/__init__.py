"""Domain adaptation in the user's loop: the target's batch beside the source's, through the same taps."""

from __future__ import annotations

from kdhooks.torch.domains.criterion import DomainAdaptationLoss

__all__ = ["DomainAdaptationLoss"]
