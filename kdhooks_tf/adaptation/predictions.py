"""Terms on what the student says of the target: entropy minimisation and minimum class confusion."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kdhooks.adaptation.shapes import check_classes, check_plain_logits
from kdhooks_tf.adaptation.adapter import Adapter, Coefficient, DomainBatch, named
from kdhooks_tf.losses.positions import shape_of

Tensor = Any


def entropy(target_logits: Tensor) -> Tensor:
    """The mean entropy of the predictions, in nats: -Σ_c p log p, mean over rows (and positions).

    Grandvalet & Bengio 2005, "Semi-supervised Learning by Entropy Minimization", equation 3.

    Args:
        target_logits: [N, C] or [N, ..., C].

    Raises:
        ModelError: fewer than two classes.
    """
    check_classes("entropy", shape_of(target_logits), -1)
    return tf.reduce_mean(entropies(target_logits))


def entropies(logits: Tensor) -> Tensor:
    """-Σ_c p log p of each row, [N] or [N, ...]."""
    logs = tf.nn.log_softmax(logits)
    return -tf.reduce_sum(tf.exp(logs) * logs, -1)


def mcc(target_logits: Tensor, *, temperature: float = 2.5) -> Tensor:
    """Minimum class confusion: (Σ_jj' C_jj' - Σ_j C_jj) / K for the class correlation C of the predictions.

    p = softmax(z / T); C_jj' = Σ_i w_i p_ij p_ij', each row divided by its sum; w_i is N (1 + e^-H_i) over its sum,
    H the entropy. Jin et al. 2020, "Minimum Class Confusion for Versatile Domain Adaptation", equations 2 to 7.

    Args:
        target_logits: [N, C].
        temperature: T.

    Raises:
        ModelError: logits that are not [N, C] with two classes or more.
    """
    check_plain_logits("mcc", shape_of(target_logits))
    check_classes("mcc", shape_of(target_logits), -1)
    softened = target_logits / tf.constant(temperature, target_logits.dtype)
    p = tf.nn.softmax(softened)
    weights = 1 + tf.exp(-tf.stop_gradient(entropies(softened)))
    weights = weights / tf.reduce_mean(weights)
    together = tf.matmul(p, weights[:, tf.newaxis] * p, transpose_a=True)
    together = together / tf.reduce_sum(together, 1, keepdims=True)
    classes = tf.cast(tf.shape(p)[-1], p.dtype)
    return (tf.reduce_sum(together) - tf.linalg.trace(together)) / classes


@named("entropy")
class Entropy(Adapter):
    """The mean entropy of the target's predictions; see `entropy`."""

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        return entropy(target.logits)


@named("mcc")
class MCC(Adapter):
    """Minimum class confusion on the target's predictions; see `mcc`."""

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        return mcc(target.logits, temperature=self.options["temperature"])
