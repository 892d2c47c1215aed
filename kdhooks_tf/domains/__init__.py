"""Domain adaptation in the user's loop: the target's batch beside the source's, through the same taps."""

from __future__ import annotations

from kdhooks_tf.domains.criterion import DomainAdaptationLoss

__all__ = ["DomainAdaptationLoss"]
