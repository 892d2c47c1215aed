"""Terms on what the student says of the target: entropy minimisation and minimum class confusion."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kdhooks.adaptation import ADAPTER_RULES
from kdhooks.adaptation.shapes import check_classes, check_rows
from kdhooks_tf.adaptation.adapter import Adapter, Coefficient, DomainBatch, named, wide
from kdhooks_tf.losses.positions import shape_of

Tensor = Any

_SURELY_NOTHING = -1000.0  # e to this power is 0 in float64, so p log p is 0 and never 0 times infinity


def entropy(target_logits: Tensor) -> Tensor:
    """The mean entropy of predictions, -1/N Σ_i Σ_c p_ic log p_ic, in nats.

    Grandvalet & Bengio 2004, "Semi-supervised Learning by Entropy Minimization", equation 6.

    Args:
        target_logits: [N, C]; of [N, ..., C] the mean is over all pixels or tokens.

    Returns:
        A scalar in float32 or wider, from 0 to log C.

    Raises:
        ModelError: fewer than two classes.

    >>> round(float(entropy(tf.zeros((3, 4)))), 4)
    1.3863
    """
    return tf.reduce_mean(entropies(tf.nn.log_softmax(_class_rows("entropy", target_logits))))


def entropies(log_predictions: Tensor) -> Tensor:
    """H = -Σ p log p of each row of [N, C] log-probabilities; finite also where a class is impossible."""
    return -tf.reduce_sum(tf.exp(log_predictions) * tf.maximum(log_predictions, _SURELY_NOTHING), 1)


def mcc(target_logits: Tensor, *, temperature: float) -> Tensor:
    """Minimum class confusion: the share of the class correlation that lies between different classes.

    With p = softmax(z / T), weights w_i = N (1 + e^(-H(p_i))) / Σ_k (1 + e^(-H(p_k))), which are constants, and
    C_jj' = Σ_i w_i p_ij p_ij', each row divided by its sum: 1/|classes| Σ_{j ≠ j'} C_jj'. Jin et al. 2020, "Minimum
    Class Confusion for Versatile Domain Adaptation", equations 1 to 7. A row's sum is Σ_i w_i p_ij, so the division
    is a softmax over the batch, and no class divides by 0.

    Args:
        target_logits: [N, C]; every pixel or token of [N, ..., C] counts as a row.
        temperature: T, above 0; the paper has 2.5.

    Returns:
        A scalar in float32 or wider, from 0 to below 1.

    Raises:
        ModelError: fewer than two classes.
        UsageError: a temperature that is not above 0.

    >>> round(float(mcc(tf.zeros((3, 4)), temperature=2.5)), 4)
    0.75
    """
    softness = ADAPTER_RULES["mcc"].read({"temperature": temperature})["temperature"]
    rows = _class_rows("mcc", target_logits)
    rows = tf.nn.log_softmax(rows / tf.constant(softness, rows.dtype))
    weights = tf.math.log1p(tf.exp(-tf.stop_gradient(entropies(rows))))
    shares = tf.nn.softmax(rows + weights[:, tf.newaxis], 0)
    confusion = tf.matmul(shares, tf.exp(rows), transpose_a=True)
    classes = tf.cast(tf.shape(rows)[1], rows.dtype)
    return (tf.reduce_sum(confusion) - tf.linalg.trace(confusion)) / classes


def _class_rows(name: str, logits: Tensor) -> Tensor:
    """[positions, C] in float32 or wider."""
    logits = wide(tf.convert_to_tensor(logits))
    check_rows(name, "target", "logits", shape_of(logits))
    check_classes(name, shape_of(logits), -1)
    return tf.reshape(logits, [-1, tf.shape(logits)[-1]]) if len(shape_of(logits)) > 2 else logits


@named("entropy")
class EntropyMinimisation(Adapter):
    """The mean entropy of the target's predictions; see `entropy`."""

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        return entropy(target.logits)


@named("mcc")
class MCC(Adapter):
    """Minimum class confusion on the target's predictions; see `mcc`."""

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        return mcc(target.logits, temperature=self.options["temperature"])
