"""Terms on how long features are: batch spectral penalisation and adaptive feature norms."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kdhooks.adaptation import ADAPTER_RULES
from kdhooks_tf.adaptation.adapter import Adapter, Coefficient, DomainBatch, named, pooled_rows, two_domains, wide
from kdhooks_tf.losses.features import length

Tensor = Any


def bsp(source: Tensor, target: Tensor, *, k: int = 1, pool: str = "flatten") -> Tensor:
    """Batch spectral penalisation: Σ_{i ≤ k} (σ_s,i² + σ_t,i²), the largest singular values of both feature matrices.

    Chen et al. 2019, "Transferability vs. Discriminability: Batch Spectral Penalization for Adversarial Domain
    Adaptation", equation 5. It stands beside DANN or CDAN; the paper weighs it with 1e-4.

    Args:
        source: features [N, ...].
        target: features [M, ...] of the same width.
        k: how many; more than there are is all.
        pool: ``mean`` averages features over space or tokens first.

    Returns:
        A scalar in float32 or wider.

    Raises:
        ModelError: the widths differ.
        UsageError: an option out of its range.

    >>> round(float(bsp(tf.constant([[3.0, 0.0], [0.0, 1.0]]), tf.eye(2))), 4)
    10.0
    """
    given = ADAPTER_RULES["bsp"].read({"k": k, "pool": pool})
    return tf.add_n([_largest(one, given["k"]) for one in two_domains("bsp", source, target, given["pool"])])


def _largest(rows: Tensor, k: int) -> Tensor:
    """The sum of the k largest squared singular values of a matrix, as the length of it along their vectors.

    The vectors are constants: the derivative of σ² is that of ‖u' A‖² for the u of now.
    """
    _, vectors = tf.linalg.eigh(tf.stop_gradient(tf.matmul(rows, rows, transpose_b=True)))
    return tf.reduce_sum(tf.square(tf.matmul(vectors[:, -k:], rows, transpose_a=True)))


def afn(
    features: Tensor, *, method: str = "stepwise", radius: float = 25.0, step: float = 1.0, pool: str = "flatten"
) -> Tensor:
    """Adaptive feature norm: features of both domains are led to larger norms, mean over rows.

    ``stepwise`` (SAFN) is (‖f‖ - (‖f‖₀ + Δr))² with ‖f‖₀ the norm of now as a constant: its value is always Δr², its
    gradient lets every norm grow. ``hard`` (HAFN) is (‖f‖ - R)². Xu et al. 2019, "Larger Norm More Transferable: An
    Adaptive Feature Norm Approach for Unsupervised Domain Adaptation", equations 4, 5, 7 and 8. A feature of zero has
    gradient 0.

    Args:
        features: [N, ...].
        method: ``stepwise`` or ``hard``.
        radius: R, above 0.
        step: Δr, above 0.
        pool: ``mean`` averages features over space or tokens first.

    Returns:
        A scalar in float32 or wider.

    Raises:
        UsageError: an option out of its range.

    >>> float(afn(tf.constant([[3.0, 4.0]]), method="hard"))
    400.0
    """
    given = ADAPTER_RULES["afn"].read({"method": method, "radius": radius, "step": step, "pool": pool})
    rows = pooled_rows(wide(tf.convert_to_tensor(features)), given["pool"])
    norms = length(rows, 1)
    wanted = given["radius"] if given["method"] == "hard" else tf.stop_gradient(norms) + given["step"]
    return tf.reduce_mean(tf.square(norms - wanted))


@named("bsp")
class BSP(Adapter):
    """Batch spectral penalisation of the features of one layer; see `bsp`."""

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        return bsp(source.features[0], target.features[0], **self.options)


@named("afn")
class AFN(Adapter):
    """Adaptive feature norm: `afn` of one layer's features of both domains, 1/(n + m) Σ over all rows."""

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        both = two_domains(self.name, source.features[0], target.features[0], self.options["pool"])
        return afn(tf.concat(both, 0), **{**self.options, "pool": "flatten"})
