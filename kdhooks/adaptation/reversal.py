"""How strongly reversed gradients count: a coefficient that warms up with the steps of training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdhooks.errors import UsageError


@dataclass(frozen=True)
class WarmStart:
    """``low + (high - low) * (2 / (1 + exp(-alpha p)) - 1)`` with p = step / steps.

    The discriminator is noise at first, and its gradients would spoil the features. Ganin & Lempitsky 2015,
    "Unsupervised Domain Adaptation by Backpropagation", the schedule of λ in their experiments, with alpha 10.
    Behind the last of `steps` the coefficient goes on towards `high`. It has no state: whoever counts training steps
    resumes it.

    Args:
        steps: of training until p is 1, at least 1.
        low: the coefficient at step 0.
        high: what it goes to.
        alpha: how fast, above 0.

    Raises:
        UsageError: a number out of its range.

    >>> warm = WarmStart(steps=100)
    >>> warm(0), round(warm(10), 4), round(warm(100), 4)
    (0.0, 0.4621, 0.9999)
    """

    steps: int = 1000
    low: float = 0.0
    high: float = 1.0
    alpha: float = 10.0

    def __post_init__(self) -> None:
        if self.steps < 1 or self.alpha <= 0 or not 0 <= self.low <= self.high < math.inf:
            raise UsageError(
                "the reversal needs steps of 1 or more, an alpha above 0 and 0 <= low <= high, and has "
                f"steps={self.steps}, alpha={self.alpha}, low={self.low}, high={self.high}"
            )

    def __call__(self, step: int) -> float:
        """The coefficient at a step of training, counted from 0."""
        coefficient: float = self.at(max(step, 0) / self.steps)
        return coefficient

    def at(self, progress: Any, exp: Callable[[Any], Any] = math.exp) -> Any:
        """The coefficient at p; with a backend's own `exp` also where p is a tensor."""
        return self.low + (self.high - self.low) * (2 / (1 + exp(-self.alpha * progress)) - 1)
