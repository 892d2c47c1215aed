"""How much a comparison may cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Limits:
    """What is looked at, at most.

    Attributes:
        rows: of the evaluation data, for confusion and disagreements.
        seconds: for these rows, after which no further batch is begun.
        similar_rows: for the similarity of layers.
        similar_seconds: for it, before training and after it.
        layers: of a side.
        repeats: forwards whose time is measured.
        examples: samples that are shown.
        classes: that a confusion shows; of more, those that are confused most.
        file_bytes: of a model that is written into a file to know its size; of a larger one it is computed.
        metric_seconds: for a teacher's metrics on all of the evaluation data, or a tenth of the run where that is more.
    """

    rows: int = 2_000
    seconds: float = 20.0
    similar_rows: int = 512
    similar_seconds: float = 5.0
    layers: int = 24
    repeats: int = 16
    examples: int = 12
    classes: int = 50
    file_bytes: int = 64 << 20
    metric_seconds: float = 60.0


LIMITS = Limits()
"""Those of every run."""


def deadline(seconds: float) -> Callable[[], bool]:
    """A function that tells whether so many seconds have passed since now."""
    end = time.perf_counter() + seconds
    return lambda: time.perf_counter() > end


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many of the items, the first and the last among them, evenly apart.

    >>> evenly([0, 1, 2, 3, 4, 5, 6], 3)
    [0, 3, 6]
    """
    if len(items) <= most:
        return list(items)
    return [items[round(place * (len(items) - 1) / (most - 1))] for place in range(most)]
