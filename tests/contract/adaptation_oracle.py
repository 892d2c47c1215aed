"""The formulas of domain adaptation in NumPy, with loops where the papers have sums.

Features are [N, ...] and read as rows, logits [N, C]. Everything is computed in the dtype of the inputs, so that
differences of values in longdouble give slopes to more than ten digits. What the methods hold constant (bandwidths,
weights, norms of now) is handed in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tests.contract.oracle import Array

Layers = Sequence[tuple[Array, Array]]
"""Weights [out, in] and biases [out] of a network with ReLU between."""


def rows(feature: Array, pool: str = "flatten") -> Array:
    if pool == "mean" and feature.ndim >= 4:
        return feature.mean(tuple(range(2, feature.ndim)))
    if pool == "mean" and feature.ndim == 3:
        return feature.mean(1)
    return feature.reshape(len(feature), -1)


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def network(layers: Layers, x: Array) -> Array:
    for index, (weight, bias) in enumerate(layers):
        x = (np.maximum(x, 0) if index else x) @ weight.T + bias
    return x


def probability(layers: Layers, x: Array) -> Any:
    """Of the source."""
    return 1 / (1 + np.exp(-network(layers, x)[0]))


def domain(layers: Layers, source: Array, target: Array, weights: tuple[Array, Array] | None = None) -> Any:
    ones = weights or (np.ones(len(source)), np.ones(len(target)))
    ours = [w * np.log(probability(layers, x)) for w, x in zip(ones[0], source, strict=True)]
    theirs = [w * np.log(1 - probability(layers, x)) for w, x in zip(ones[1], target, strict=True)]
    return -sum(ours) / len(source) - sum(theirs) / len(target)


def accuracy(layers: Layers, source: Array, target: Array) -> float:
    ours = np.mean([probability(layers, x) > 0.5 for x in source])
    theirs = np.mean([probability(layers, x) < 0.5 for x in target])
    return float(ours + theirs) / 2


def row_entropies(predictions: Array) -> Array:
    return np.array([-sum(p * np.log(p) for p in row) for row in predictions])


def certainty(logits: Array, kind: str = "sum") -> Array:
    """1 + e^-H of each row."""
    found = row_entropies(softmax(logits))
    return 1 + np.exp(-found / (logits.shape[1] if kind == "mean" else 1))


def joined(features: Array, logits: Array, maps: tuple[Array, Array] | None) -> Array:
    """T(f, g): [N, C * D] with the classes outside, or of random maps [D, d] and [C, d]."""
    predictions = softmax(logits)
    if maps is None:
        return np.array([np.outer(g, f).reshape(-1) for f, g in zip(features, predictions, strict=True)])
    wide = [
        sum(f[a] * maps[0][a] for a in range(len(f))) * sum(g[c] * maps[1][c] for c in range(len(g)))
        for f, g in zip(features, predictions, strict=True)
    ]
    return np.array(wide) / np.sqrt(np.longdouble(maps[0].shape[1]))


def distance(x: Array, y: Array) -> Any:
    return ((x - y) ** 2).sum()


def bandwidth(both: Array, kind: float | str) -> Any:
    if not isinstance(kind, str):
        return kind
    found = [distance(x, y) for x, y in itertools.combinations(both, 2)]
    return np.mean(found) if kind == "mean" else np.median(found)


def kernel(x: Array, y: Array, multipliers: Sequence[float], gamma: Any) -> Any:
    return sum(np.exp(-distance(x, y) / (u * gamma)) for u in multipliers) / len(multipliers)


def discrepancy(k: Callable[[int, int], Any], n: int, m: int, estimator: str) -> Any:
    """Of rows 0 to n - 1 of the source and n to n + m - 1 of the target."""
    s, t = range(n), range(n, n + m)
    if estimator == "linear":
        pairs = min(n, m) // 2
        total = 0
        for i in range(pairs):
            a, b, c, d = 2 * i, 2 * i + 1, n + 2 * i, n + 2 * i + 1
            total = total + k(a, b) + k(c, d) - k(a, d) - k(b, c)
        return total / pairs
    across = sum(k(i, j) for i in s for j in t) / (n * m)
    if estimator == "unbiased":
        within = [sum(k(i, j) for i in one for j in one if i != j) / (len(one) * (len(one) - 1)) for one in (s, t)]
    else:
        within = [sum(k(i, j) for i in one for j in one) / len(one) ** 2 for one in (s, t)]
    return within[0] + within[1] - 2 * across


def joint_discrepancy(
    layers: Sequence[tuple[Array, Sequence[float], Any]], sources: int, estimator: str = "quadratic"
) -> Any:
    """Of layers that hold both domains' rows, their multipliers and γ; one layer is MK-MMD."""

    def k(i: int, j: int) -> Any:
        product = 1
        for both, multipliers, gamma in layers:
            product = product * kernel(both[i], both[j], multipliers, gamma)
        return product

    return discrepancy(k, sources, len(layers[0][0]) - sources, estimator)


def covariance(x: Array) -> Array:
    mean = sum(x) / len(x)
    return sum(np.outer(row - mean, row - mean) for row in x) / (len(x) - 1)


def coral(source: Array, target: Array) -> Any:
    difference = covariance(source) - covariance(target)
    return sum(one**2 for one in difference.reshape(-1)) / (4 * source.shape[1] ** 2)


def entropy(logits: Array) -> Any:
    return row_entropies(softmax(logits)).mean()


def mcc_weights(logits: Array, temperature: float) -> Array:
    found = 1 + np.exp(-row_entropies(softmax(logits / temperature)))
    return len(logits) * found / found.sum()


def mcc(logits: Array, temperature: float, weights: Array) -> Any:
    predictions = softmax(logits / temperature)
    confusion = sum(w * np.outer(y, y) for w, y in zip(weights, predictions, strict=True))
    shares = [row / row.sum() for row in confusion]
    return sum(abs(shares[j][other]) for j, other in itertools.permutations(range(len(shares)), 2)) / len(shares)


def bsp(source: Array, target: Array, k: int) -> tuple[float, list[Array]]:
    """The value, and the gradients 2 Σ σ_i u_i v_iᵀ of both, from a decomposition in float64."""
    total, slopes = 0.0, []
    for one in (source, target):
        u, sizes, v = np.linalg.svd(np.asarray(one, np.float64), full_matrices=False)
        total += float((sizes[:k] ** 2).sum())
        slopes.append(2 * sum(s * np.outer(u[:, i], v[i]) for i, s in enumerate(sizes[:k])))
    return total, slopes


def norms(x: Array) -> Array:
    return np.sqrt((x * x).sum(1))


def afn(x: Array, goals: Array) -> Any:
    """The mean of (||f|| - goal)²."""
    return sum((norm - goal) ** 2 for norm, goal in zip(norms(x), goals, strict=True)) / len(x)


def cross_entropy(logits: Array, labels: Array) -> Any:
    """The mean over rows with a label of 0 or more."""
    counted = [(row, label) for row, label in zip(softmax(logits), labels, strict=True) if label >= 0]
    return -sum(np.log(row[label]) for row, label in counted) / len(counted)


def disagreement(first: Array, second: Array) -> Any:
    return np.mean([abs(a - b).sum() / len(a) for a, b in zip(softmax(first), softmax(second), strict=True)])


def disparity(source: Array, target: Array, chosen: tuple[Array, Array], margin: float) -> Any:
    """MDD of the adversary's logits and the student's classes."""
    agreed = -sum(np.log(row[c]) for row, c in zip(softmax(source), chosen[0], strict=True)) / len(source)
    denied = -sum(np.log(1 - row[c]) for row, c in zip(softmax(target), chosen[1], strict=True)) / len(target)
    return margin * agreed + denied
