"""Gaussian kernels of the rows of two domains, and estimators of the squared distance of their mean embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Bandwidth = float | Literal["mean", "median"]
Estimator = Literal["quadratic", "unbiased", "linear"]


def squared_distances(rows: Tensor) -> Tensor:
    """[N, N] squared Euclidean distances of rows [N, D], without an [N, N, D] between.

    The rows are shifted to a mean of zero first, which changes no distance and loses fewer digits.
    """
    shifted = rows - rows.detach().mean(0)
    squares = shifted.square().sum(1)
    found = squares[:, None] + squares[None, :] - 2 * shifted @ shifted.T
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return found.clamp_min(0).masked_fill(itself, 0.0)


def bandwidth_of(distances: Tensor, bandwidth: Bandwidth) -> Tensor:
    """γ, a constant for the gradient: a number, or the mean or median of the distances of different rows."""
    if not isinstance(bandwidth, str):
        return torch.full((), float(bandwidth), dtype=distances.dtype, device=distances.device)
    constant, count = distances.detach(), len(distances)
    if bandwidth == "mean":
        return constant.sum() / max(1, count * (count - 1))
    first, second = torch.triu_indices(count, count, 1, device=distances.device)
    ordered = constant[first, second].sort().values
    middle = len(ordered) // 2
    return (ordered[middle] + ordered[(len(ordered) - 1) // 2]) / 2


def gaussian_kernels(rows: Tensor, multipliers: Sequence[float], bandwidth: Bandwidth) -> Tensor:
    """[N, N] of the mean over u of exp(-||x - y||² / (u γ)): β_u = 1 / number of kernels.

    Where all rows are the same up to rounding, γ is what rounding may leave, so all kernels are 1.
    """
    distances = squared_distances(rows)
    limits = torch.finfo(rows.dtype)
    rounding = 100 * limits.eps**2 * rows.detach().square().sum(1).mean() + limits.tiny * 1e8
    scaled = distances / torch.maximum(bandwidth_of(distances, bandwidth), rounding)
    total = torch.zeros_like(scaled)
    for multiplier in multipliers:
        total = total + (scaled / -multiplier).exp()
    return total / len(multipliers)


def mean_discrepancy(kernels: Tensor, sources: int, estimator: Estimator) -> Tensor:
    """The squared distance of the mean embeddings of two domains.

    Args:
        kernels: [N, N] of all rows, the source's first.
        sources: how many rows are the source's.
        estimator: as in `mk_mmd`.
    """
    targets = len(kernels) - sources
    if estimator == "linear":
        return _linear(kernels, sources, min(sources, targets) // 2)
    own = kernels[:sources, :sources], kernels[sources:, sources:]
    if estimator == "quadratic":
        return own[0].mean() + own[1].mean() - 2 * kernels[:sources, sources:].mean()
    within = [(one.sum() - one.trace()) / max(1, len(one) * (len(one) - 1)) for one in own]
    return within[0] + within[1] - 2 * kernels[:sources, sources:].mean()


def _linear(kernels: Tensor, sources: int, pairs: int) -> Tensor:
    """The mean over pairs of k(s1, s2) + k(t1, t2) - k(s1, t2) - k(s2, t1)."""
    first = torch.arange(pairs, device=kernels.device) * 2
    second, theirs = first + 1, first + sources
    found = kernels[first, second] + kernels[theirs, theirs + 1]
    found = found - kernels[first, theirs + 1] - kernels[second, theirs]
    return found.sum() / max(1, pairs)
