"""Terms that compare the distributions of both domains' features: MK-MMD, JAN and Deep CORAL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kdhooks_tf.adaptation.adapter import Adapter, Coefficient, DomainBatch, named
from kdhooks_tf.losses.features import rows

Tensor = Any
Bandwidth = float | str

MULTIPLIERS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Of the bandwidth, one for each kernel; all kernels weigh alike."""


def mk_mmd(
    source: Tensor,
    target: Tensor,
    *,
    multipliers: Sequence[float] = MULTIPLIERS,
    bandwidth: Bandwidth = "mean",
    estimator: str = "quadratic",
) -> Tensor:
    """The squared maximum mean discrepancy of two samples, with the mean of several Gaussian kernels.

    k(x, y) = exp(-‖x - y‖² / (m σ²)), the mean over multipliers m. Long et al. 2015, "Learning Transferable Features
    with Deep Adaptation Networks", equations 2 to 5; Gretton et al. 2012, equations 3 and 5 and section 6.

    Args:
        source: [N, ...], read as rows [N, D].
        target: [M, ...] of the same width.
        multipliers: m.
        bandwidth: σ², or ``mean`` or ``median`` of the squared distances between different rows of both samples, as
            a constant.
        estimator: ``quadratic`` takes the mean over all pairs, also of a row and itself; ``unbiased`` over different
            rows; ``linear`` over disjoint pairs of neighbours.
    """
    kernels = _kernels(rows(source), rows(target), multipliers, bandwidth)
    return _discrepancy(*kernels, tf.shape(source)[0], estimator)


def coral(source: Tensor, target: Tensor) -> Tensor:
    """Deep CORAL: ‖C_S - C_T‖² / 4 D² for the unbiased covariances of both samples.

    Sun & Saenko 2016, "Deep CORAL: Correlation Alignment for Deep Domain Adaptation", equations 1 to 3. A single row
    has a covariance of 0.

    Args:
        source: [N, ...], read as rows [N, D].
        target: [M, ...] of the same width.
    """
    ours, theirs = rows(source), rows(target)
    width = tf.cast(tf.shape(ours)[1], ours.dtype)
    return tf.reduce_sum(tf.math.squared_difference(_covariance(ours), _covariance(theirs))) / (4 * width * width)


def _covariance(sample: Tensor) -> Tensor:
    centred = sample - tf.reduce_mean(sample, 0, keepdims=True)
    count = tf.cast(tf.maximum(tf.shape(sample)[0] - 1, 1), sample.dtype)
    return tf.matmul(centred, centred, transpose_a=True) / count


def _squared_distances(sample: Tensor) -> Tensor:
    """[N, N], exactly 0 on the diagonal and symmetric."""
    squares = tf.reduce_sum(tf.square(sample), 1)
    found = squares[:, tf.newaxis] + squares[tf.newaxis] - 2 * tf.matmul(sample, sample, transpose_b=True)
    return tf.linalg.set_diag(tf.maximum(found, 0), tf.zeros_like(squares))


def _kernels(source: Tensor, target: Tensor, multipliers: Sequence[float], bandwidth: Bandwidth) -> tuple[Tensor]:
    """The mean of the kernels between all rows of both samples, [N + M, N + M]."""
    distances = _squared_distances(tf.concat([source, target], 0))
    width = _bandwidth(distances, bandwidth)
    return (tf.add_n([tf.exp(-distances / (width * one)) for one in multipliers]) / len(multipliers),)


def _bandwidth(distances: Tensor, bandwidth: Bandwidth) -> Tensor:
    if not isinstance(bandwidth, str):
        return tf.constant(bandwidth, distances.dtype)
    distances = tf.stop_gradient(distances)
    count = tf.shape(distances)[0]
    if bandwidth == "mean":
        pairs = tf.cast(tf.maximum(count * (count - 1), 1), distances.dtype)
        found = tf.reduce_sum(distances) / pairs
    else:
        apart = tf.boolean_mask(distances, ~tf.eye(count, dtype=tf.bool))
        ordered, number = tf.sort(apart), tf.size(apart)
        found = (ordered[(number - 1) // 2] + ordered[number // 2]) / 2
    return tf.where(found > 0, found, tf.ones_like(found))


def _discrepancy(kernel: Tensor, count: Tensor, estimator: str) -> Tensor:
    """The squared discrepancy, of a kernel [N + M, N + M] whose first N rows are the source's."""
    raise NotImplementedError(estimator)
