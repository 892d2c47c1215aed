"""Terms that compare the distributions of both domains' features: MK-MMD, JAN and Deep CORAL."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.adaptation import ADAPTER_RULES, FIVE_KERNELS
from kdhooks_tf.adaptation.adapter import Adapter, Coefficient, DomainBatch, named, two_domains
from kdhooks_tf.losses.features import rows

Tensor = Any
Bandwidth = float | str


def mk_mmd(
    source: Tensor,
    target: Tensor,
    *,
    multipliers: Sequence[float] = FIVE_KERNELS,
    bandwidth: Bandwidth = "mean",
    estimator: str = "quadratic",
    pool: str = "flatten",
) -> Tensor:
    """Multi-kernel maximum mean discrepancy: ‖E φ(s) - E φ(t)‖² with k(x, y) = mean over u of exp(-‖x - y‖² / (u γ)).

    Long et al. 2015, "Learning Transferable Features with Deep Adaptation Networks", equations 1, 2 and 5, with even
    β_u. Common implementations take the sum over kernels instead.

    Args:
        source: features [N, ...].
        target: features [M, ...] of the same width.
        multipliers: u. The paper has 33, from 2^-8 to 2^8 in steps of √2; the authors' code the five here.
        bandwidth: γ, a number, or the ``mean`` (as the authors' code) or ``median`` (as the paper) of the squared
            distances of all different rows of both domains, a constant for the gradient.
        estimator: ``quadratic`` is the mean over all pairs, never negative and 0 for the same rows; ``unbiased``
            leaves out each row's pair with itself; ``linear`` is the paper's statistic of consecutive rows.
        pool: ``mean`` averages features over space or tokens first.

    Returns:
        A scalar in float32 or wider.

    Raises:
        ModelError: the widths differ.
        UsageError: an option out of its range.

    >>> float(mk_mmd(tf.zeros((4, 3)), tf.zeros((2, 3))))
    0.0
    """
    options: dict[str, Any] = {"multipliers": multipliers, "bandwidth": bandwidth, "estimator": estimator, "pool": pool}
    options = ADAPTER_RULES["mk_mmd"].read(options)
    both = two_domains("mk_mmd", source, target, options["pool"])
    kernels = _kernels(tf.concat(both, 0), options["multipliers"], options["bandwidth"])
    return _discrepancy(kernels, tf.shape(both[0])[0], options["estimator"])


def coral(source: Tensor, target: Tensor, *, pool: str = "flatten") -> Tensor:
    """Deep CORAL: ‖C_s - C_t‖² / (4 d²), the squared Frobenius norm of the difference of covariances.

    Covariances are those with n - 1; of a single row it is 0. Sun & Saenko 2016, "Deep CORAL: Correlation Alignment
    for Deep Domain Adaptation", equations 1 to 3.

    Args:
        source: features [N, ...].
        target: features [M, ...] of the same width d.
        pool: ``mean`` averages features over space or tokens first.

    Returns:
        A scalar in float32 or wider.

    Raises:
        ModelError: the widths differ.

    >>> float(coral(tf.eye(3), tf.eye(3) + 1.0))
    0.0
    """
    ours, theirs = (_centred(one) for one in two_domains("coral", source, target, pool))
    width = tf.cast(tf.shape(ours)[1], ours.dtype)
    known, rows_known = ours.shape[1], [one.shape[0] for one in (ours, theirs)]
    if known is not None and None not in rows_known and known > sum(rows_known):  # no matrix of d times d
        within = [tf.reduce_sum(tf.square(tf.matmul(one, one, transpose_b=True))) for one in (ours, theirs)]
        across = tf.reduce_sum(tf.square(tf.matmul(ours, theirs, transpose_b=True)))
        squares = within[0] + within[1] - 2 * across
    else:
        ours, theirs = (tf.matmul(one, one, transpose_a=True) for one in (ours, theirs))
        squares = tf.reduce_sum(tf.math.squared_difference(ours, theirs))
    return squares / (4 * width * width)


def _centred(sample: Tensor) -> Tensor:
    """Rows minus their mean, over √(n - 1)."""
    count = tf.cast(tf.maximum(tf.shape(sample)[0] - 1, 1), sample.dtype)
    return (sample - tf.reduce_mean(sample, 0, keepdims=True)) / tf.sqrt(count)


# ---- kernels ---------------------------------------------------------------------------------------


def _kernels(sample: Tensor, multipliers: Sequence[float], bandwidth: Bandwidth) -> Tensor:
    """[N, N] of the mean over u of exp(-‖x - y‖² / (u γ)).

    Where all rows are the same up to rounding, γ is what rounding may leave, so all kernels are 1.
    """
    distances = _squared_distances(sample)
    limits = np.finfo(sample.dtype.as_numpy_dtype)
    squares = tf.reduce_sum(tf.square(tf.stop_gradient(sample)), 1)
    rounding = 100 * float(limits.eps) ** 2 * tf.reduce_mean(squares) + float(limits.tiny) * 1e8
    scaled = distances / tf.maximum(_bandwidth(distances, bandwidth), rounding)
    return tf.add_n([tf.exp(scaled / -one) for one in multipliers]) / len(multipliers)


def _squared_distances(sample: Tensor) -> Tensor:
    """[N, N], 0 on the diagonal; rows are shifted to a mean of zero first, which loses fewer digits."""
    shifted = sample - tf.stop_gradient(tf.reduce_mean(sample, 0))
    squares = tf.reduce_sum(tf.square(shifted), 1)
    found = squares[:, tf.newaxis] + squares[tf.newaxis] - 2 * tf.matmul(shifted, shifted, transpose_b=True)
    return tf.linalg.set_diag(tf.nn.relu(found), tf.zeros_like(squares))


def _bandwidth(distances: Tensor, bandwidth: Bandwidth) -> Tensor:
    """γ: a number, or the mean or median of the distances of different rows, as a constant."""
    if not isinstance(bandwidth, str):
        return tf.constant(bandwidth, distances.dtype)
    constant, count = tf.stop_gradient(distances), tf.shape(distances)[0]
    if bandwidth == "mean":
        return tf.reduce_sum(constant) / tf.cast(tf.maximum(count * (count - 1), 1), constant.dtype)
    ordered = tf.sort(tf.reshape(constant, [-1]))  # N zeros of the diagonal, then each pair twice
    number = count * (count - 1)
    return (ordered[count + (number - 1) // 2] + ordered[count + number // 2]) / 2


def _discrepancy(kernels: Tensor, sources: Tensor, estimator: str) -> Tensor:
    """The squared distance of the mean embeddings of two domains.

    Args:
        kernels: [N, N] of all rows, the source's first.
        sources: how many rows are the source's.
        estimator: as in `mk_mmd`.
    """
    targets = tf.shape(kernels)[0] - sources
    if estimator == "linear":
        return _linear(kernels, sources, tf.minimum(sources, targets) // 2)
    own = kernels[:sources, :sources], kernels[sources:, sources:]
    across = tf.reduce_mean(kernels[:sources, sources:])
    if estimator == "quadratic":
        return tf.reduce_mean(own[0]) + tf.reduce_mean(own[1]) - 2 * across
    counts = [tf.cast(tf.maximum(count * (count - 1), 1), kernels.dtype) for count in (sources, targets)]
    apart = [tf.reduce_sum(one) - tf.linalg.trace(one) for one in own]
    return apart[0] / counts[0] + apart[1] / counts[1] - 2 * across


def _linear(kernels: Tensor, sources: Tensor, pairs: Tensor) -> Tensor:
    """The mean over pairs of k(s1, s2) + k(t1, t2) - k(s1, t2) - k(s2, t1)."""
    first = 2 * tf.range(pairs)
    theirs = first + sources

    def between(one: Tensor, other: Tensor) -> Tensor:
        return tf.reduce_sum(tf.gather_nd(kernels, tf.stack([one, other], 1)))

    within = between(first, first + 1) + between(theirs, theirs + 1)
    across = between(first, theirs + 1) + between(first + 1, theirs)
    return (within - across) / tf.cast(tf.maximum(pairs, 1), kernels.dtype)


# ---- adapters --------------------------------------------------------------------------------------


def _pairs(source: DomainBatch, target: DomainBatch) -> list[tuple[Tensor, Tensor]]:
    """The features of both domains, layer by layer; the logits where there is no layer."""
    if not source.features:
        return [(source.logits, target.logits)]
    return list(zip(source.features, target.features, strict=True))


@named("mk_mmd")
class MKMMD(Adapter):
    """DAN: the sum over layers of `mk_mmd`; of the logits where no layer is named."""

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        return tf.add_n([mk_mmd(*pair, **self.options) for pair in _pairs(source, target)])


@named("jan")
class JAN(Adapter):
    """Joint adaptation: the mean discrepancy of all layers and the softmax together, its kernel the product of theirs.

    Long et al. 2017, "Deep Transfer Learning with Joint Adaptation Networks", equations 9 to 12. Options are those of
    `mk_mmd`, and `softmax_multipliers` and `softmax_bandwidth` for the kernels of the predicted probabilities.
    """

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        chosen = self.options
        predicted = tf.concat([rows(tf.nn.softmax(one.logits)) for one in (source, target)], 0)
        joint = _kernels(predicted, chosen["softmax_multipliers"], chosen["softmax_bandwidth"])
        for pair in zip(source.features, target.features, strict=True):
            both = tf.concat(two_domains(self.name, *pair, chosen["pool"]), 0)
            joint = joint * _kernels(both, chosen["multipliers"], chosen["bandwidth"])
        return _discrepancy(joint, tf.shape(source.logits)[0], chosen["estimator"])


@named("coral")
class DeepCORAL(Adapter):
    """Deep CORAL: the sum over layers of `coral`; of the logits where no layer is named, as in the paper."""

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        return tf.add_n([coral(*pair, **self.options) for pair in _pairs(source, target)])
