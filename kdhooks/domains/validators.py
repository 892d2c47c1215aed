"""Validators without labels: from a model's predictions on the target domain, how good it may be there.

NumPy only, so both backends share them; predictions come to the host once an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.names import Table

Array = NDArray[np.float64]

_CHUNK = 512  # rows of a similarity matrix that are held at once


@dataclass(frozen=True)
class Validator:
    """A validator.

    Attributes:
        score: probabilities [N, C], rows that sum to 1 -> a number.
        higher_is_better: which way it points.
    """

    score: Callable[[Array], float]
    higher_is_better: bool


def probabilities(logits: Any) -> Array:
    """The softmax of logits [N, C], in float64."""
    values = np.asarray(logits, dtype=np.float64)
    values = np.exp(values - values.max(axis=1, keepdims=True))
    found: Array = values / values.sum(axis=1, keepdims=True)
    return found


def entropy(predicted: Array) -> float:
    """The mean entropy of predictions, in nats; lower is better (Morerio et al. 2018, section 4).

    >>> round(entropy(np.array([[0.5, 0.5], [1.0, 0.0]])), 4)
    0.3466
    """
    return float(_entropies(predicted).mean())


def information_maximization(predicted: Array) -> float:
    """The entropy of the mean prediction minus the mean entropy; higher is better.

    The mutual information of input and prediction (Shi & Sha 2012, equation 6): sure on each row, and varied over
    all of them.

    >>> round(information_maximization(np.array([[1.0, 0.0], [0.0, 1.0]])), 4)
    0.6931
    """
    return float(_entropies(predicted.mean(axis=0, keepdims=True))[0]) - entropy(predicted)


def soft_neighborhood_density(predicted: Array, *, temperature: float = 0.05) -> float:
    """The mean entropy of each row's similarities to all other rows; higher is better.

    Similarities are those of predictions of length 1, a row's own left out, in a softmax at `temperature` (Saito et
    al. 2021, "Tune it the Right Way: Unsupervised Validation of Domain Adaptation via Soft Neighborhood Density",
    equations 1 to 4).

    Args:
        predicted: [N, C] with N of 2 or more; one row has no neighbour, which is 0.
        temperature: of the softmax.
    """
    rows = predicted / np.linalg.norm(predicted, axis=1, keepdims=True)
    if len(rows) < 2:
        return 0.0
    total = 0.0
    for first in range(0, len(rows), _CHUNK):
        similar = rows[first : first + _CHUNK] @ rows.T / temperature
        own = np.arange(len(similar))
        similar[own, first + own] = -np.inf
        total += float(_entropies(probabilities(similar)).sum())
    return total / len(rows)


def _entropies(predicted: Array) -> Array:
    found: Array = -np.sum(predicted * np.log(np.where(predicted > 0, predicted, 1.0)), axis=1)
    return found


VALIDATORS: Table[Validator] = Table("validator")
"""Every validator by name."""

VALIDATORS.add("entropy", Validator(entropy, higher_is_better=False))
VALIDATORS.add("SND", Validator(soft_neighborhood_density, higher_is_better=True))
VALIDATORS.add(
    "information_maximization",
    Validator(information_maximization, higher_is_better=True),
    aliases=("IM", "mutual_information"),
)


def spread(rows: int, most: int) -> slice:
    """Which of so many rows are looked at, where there are more than `most`: every so many-th."""
    return slice(None, None, max(1, -(-rows // most)))


def validate(logits: Any, names: Sequence[str], *, rows: int) -> dict[str, float]:
    """The scores of a model by validator.

    Args:
        logits: of the target domain, [N, C], on the host.
        names: of validators.
        rows: how many rows are looked at, at most.
    """
    predicted = probabilities(np.asarray(logits)[spread(len(logits), rows)])
    return {name: VALIDATORS[name].score(predicted) for name in names}
