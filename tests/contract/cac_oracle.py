"""CAC in NumPy: convolutions as sums over windows, discriminators level by level, losses with logarithms.

Everything is computed in the dtype of the inputs, so that differences of values in longdouble give slopes to more
than eight digits.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.contract.feature_oracle_logits import softmax
from tests.contract.oracle import Array

Weights = Mapping[str, Array]


def convolution(x: Array, weight: Array, bias: Array) -> Array:
    """Kernel 3, stride 2, one zero around: x [N, C, ...], weight [O, C, 3, ...]."""
    dims = x.ndim - 2
    padded = np.pad(x, [(0, 0), (0, 0), *[(1, 1)] * dims])
    size = [(length - 1) // 2 + 1 for length in x.shape[2:]]
    found = np.zeros((len(x), len(weight), *size), x.dtype)
    for place in np.ndindex(*size):
        window = padded[(slice(None), slice(None), *[slice(2 * at, 2 * at + 3) for at in place])]
        total = (window[:, None] * weight[None]).reshape(len(x), len(weight), -1).sum(-1) + bias
        found[(slice(None), slice(None), *place)] = total
    return found


def average(x: Array, size: Sequence[int]) -> Array:
    """Means over equal parts, of sizes that divide."""
    found = np.zeros((*x.shape[:2], *size), x.dtype)
    steps = [before // after for before, after in zip(x.shape[2:], size, strict=True)]
    for place in np.ndindex(*size):
        part = x[(slice(None), slice(None), *[slice(s * at, s * at + s) for s, at in zip(steps, place, strict=True)])]
        found[(slice(None), slice(None), *place)] = part.reshape(*x.shape[:2], -1).mean(-1)
    return found


def judged(levels: Sequence[Array], weights: Weights, prefix: str) -> Array:
    """Logits [N] of one discriminator."""
    x = levels[0]
    for index in itertools.count():
        name = f"{prefix}.convolutions.{index}"
        if f"{name}.weight" not in weights:
            break
        if 0 < index < len(levels):
            size = [min(one, two) for one, two in zip(x.shape[2:], levels[index].shape[2:], strict=True)]
            x = np.concatenate([average(x, size), average(levels[index], size)], 1)
        x = convolution(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
        x = np.where(x > 0, x, x * np.asarray(0.2, x.dtype))
    means = x.reshape(*x.shape[:2], -1).mean(-1)
    return (means @ weights[f"{prefix}.head.weight"].T + weights[f"{prefix}.head.bias"])[:, 0]


def probabilities(logits: Array) -> Array:
    return np.moveaxis(softmax(np.moveaxis(logits, 1, -1)), -1, 1)


def branch(source: Sequence[Array], target: Sequence[Array], weights: Weights, name: str) -> Any:
    """The sum of both domains' binary cross-entropy, each over its own rows."""
    ours, theirs = (judged(levels, weights, f"discriminators.{name}") for levels in (source, target))
    of_source, of_target = 1 / (1 + np.exp(-ours)), 1 / (1 + np.exp(-theirs))
    return -np.log(of_source).mean() - np.log(1 - of_target).mean()


def beside(maps: Sequence[Array], fixed: Array | None) -> list[Array]:
    """Every map with the classes beside it; `fixed` are logits that no gradient goes to."""
    if fixed is None:
        return list(maps)
    classes = probabilities(fixed)
    return [np.concatenate([one, average(classes, one.shape[2:])], 1) for one in maps]
