"""Terms on how long features are: batch spectral penalisation and adaptive feature norms."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kdhooks_tf.adaptation.adapter import Adapter, Coefficient, DomainBatch, named
from kdhooks_tf.losses.features import length, rows

Tensor = Any


def bsp(source: Tensor, target: Tensor, *, k: int = 1) -> Tensor:
    """Batch spectral penalisation: the sum of the k largest squared singular values of either domain's features.

    Chen et al. 2019, "Transferability vs. Discriminability: Batch Spectral Penalization", equation 4.

    Args:
        source: [N, ...], read as rows [N, D].
        target: [M, ...] of the same width.
        k: how many singular values.
    """
    return _largest(rows(source), k) + _largest(rows(target), k)


def _largest(feature: Tensor, k: int) -> Tensor:
    return tf.reduce_sum(tf.square(tf.linalg.svd(feature, compute_uv=False)[:k]))


def afn(features: Tensor, *, method: str = "stepwise", radius: float = 25.0, step: float = 1.0) -> Tensor:
    """Adaptive feature norms: features of a common length (``hard``), or longer by a step each time (``stepwise``).

    ``stepwise``: the mean of (‖f‖ - (‖f‖ as a constant + Δ))². ``hard``: (the mean of ‖f‖ - R)². Xu et al. 2019,
    "Larger Norm More Transferable", equations 4 and 6.

    Args:
        features: [N, ...] of one domain, read as rows [N, D].
        method: ``stepwise`` or ``hard``.
        radius: R.
        step: Δ.
    """
    norms = length(rows(features), 1)
    if method == "hard":
        return tf.square(tf.reduce_mean(norms) - radius)
    return tf.reduce_mean(tf.square(norms - tf.stop_gradient(norms + step)))


@named("bsp")
class BSP(Adapter):
    """Batch spectral penalisation of the features of one layer; see `bsp`."""

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        return bsp(*(self._rows(one.features[0]) for one in (source, target)), k=self.options["k"])


@named("afn")
class AFN(Adapter):
    """Adaptive feature norms at one layer, the sum over both domains; see `afn`."""

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        given = {key: self.options[key] for key in ("method", "radius", "step")}
        return tf.add_n([afn(self._rows(one.features[0]), **given) for one in (source, target)])
