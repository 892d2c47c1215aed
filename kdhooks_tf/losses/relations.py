"""Losses between the relations of a batch's samples: similarity preserving, RKD, correlation congruence, PKT.

A feature [N, ...] is one row a sample; the widths of student and teacher may differ, since only N × N
relations are compared. A batch of one has no relations: its loss is 0 with zero gradients (but for
`similarity_preserving` and `correlation_congruence`, whose single relation is constant).
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from kdhooks.losses.options import check_convention, check_order
from kdhooks_tf.losses.features import check_same_batch, in_full_precision, length, rows, unit
from kdhooks_tf.losses.positions import epsilon, size, zero
from kdhooks_tf.losses.table import on_features


@on_features("similarity_preserving")
@in_full_precision
def similarity_preserving(student_feature: Any, teacher_feature: Any) -> Any:
    """Similarity preserving: ||G_S - G_T||² / N² with G the rows of F Fᵀ scaled to length 1.

    Tung & Mori 2019, "Similarity-Preserving Knowledge Distillation", equations 1 to 4.
    """
    check_same_batch("similarity_preserving", student_feature, teacher_feature)
    own, theirs = (unit(_products(rows(one)), 1) for one in (student_feature, teacher_feature))
    return _mean_of(tf.math.squared_difference(own, theirs))


@on_features("rkd")
@in_full_precision
def rkd(
    student_feature: Any,
    teacher_feature: Any,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    convention: str = "paper",
) -> Any:
    """Relational distillation: distance_weight * L_D + angle_weight * L_A.

    L_D is the Huber loss between the samples' distances, divided by each model's mean distance; L_A the
    Huber loss between the cosines of the angles that samples j and k make at i. Translation, rotation
    and scale of either feature change nothing. Memory: N² D + N³ numbers. Park et al. 2019, "Relational
    Knowledge Distillation", equations 4 to 8.

    Args:
        student_feature: [N, ...].
        teacher_feature: [N, ...] of any width.
        distance_weight: λ of the distances.
        angle_weight: λ of the angles.
        convention: ``paper`` takes means over pairs and triplets of different samples; ``common`` over
            all N² and N³ as the authors' code does, where those that repeat a sample add 0.
    """
    paper = check_convention("rkd", convention)
    check_same_batch("rkd", student_feature, teacher_feature)
    own, theirs = (_differences(rows(one)) for one in (student_feature, teacher_feature))
    n = tf.cast(tf.shape(own)[0], own.dtype)
    total = zero(own)
    if distance_weight:
        pairs = n * (n - 1) if paper else n * n
        apart = _huber(_relative_distances(own), _relative_distances(theirs))
        total += distance_weight * apart / tf.maximum(pairs, 1)
    if angle_weight:
        triplets = n * (n - 1) * (n - 2) if paper else n**3
        total += angle_weight * _huber(_cosines(own), _cosines(theirs)) / tf.maximum(triplets, 1)
    return total


@on_features("correlation_congruence")
@in_full_precision
def correlation_congruence(
    student_feature: Any, teacher_feature: Any, *, gamma: float = 0.4, order: int | None = 2
) -> Any:
    """Correlation congruence: Σ_ij (k(s_i, s_j) - k(t_i, t_j))² / N² with a Gaussian kernel of unit vectors.

    k(x, y) = exp(-γ ||x - y||²), as its Taylor series exp(-2γ) Σ_p (2γ)^p / p! (x·y)^p up to `order`.
    Peng et al. 2019, "Correlation Congruence for Knowledge Distillation", equations 6 and 10.

    Args:
        student_feature: [N, ...].
        teacher_feature: [N, ...] of any width.
        gamma: the kernel's γ.
        order: the last power of the series; None takes the kernel itself.
    """
    check_order(order)
    check_same_batch("correlation_congruence", student_feature, teacher_feature)

    def kernel(feature: Any) -> Any:
        products = _products(unit(rows(feature), 1))
        if order is None:
            return tf.exp(2 * gamma * (products - 1))
        power, series = tf.ones_like(products), tf.ones_like(products)
        for p in range(1, order + 1):
            power = power * products
            series += (2 * gamma) ** p / math.factorial(p) * power
        return math.exp(-2 * gamma) * series

    return _mean_of(tf.math.squared_difference(kernel(student_feature), kernel(teacher_feature)))


@on_features("pkt")
@in_full_precision
def pkt(student_feature: Any, teacher_feature: Any, *, convention: str = "paper") -> Any:
    """Probabilistic knowledge transfer: Σ_i KL(p_teacher(· | i) || p_student(· | i)) over the batch.

    p(j | i) = K(x_i, x_j) / Σ_k K(x_i, x_k) with K = (cos + 1) / 2. Passalis & Tefas 2018, "Learning Deep
    Representations with Probabilistic Knowledge Transfer", equations 4 to 7.

    Args:
        student_feature: [N, ...].
        teacher_feature: [N, ...] of any width.
        convention: ``paper`` leaves out j = i and takes the mean over i; ``common`` is the authors'
            code, with j = i, 1e-7 beside every probability, and the mean over all N² terms.
    """
    paper = check_convention("pkt", convention)
    check_same_batch("pkt", student_feature, teacher_feature)
    q, p = (_neighbours(rows(one), paper) for one in (student_feature, teacher_feature))
    if not paper:
        return _mean_of(p * tf.math.log((p + 1e-7) / (q + 1e-7)))
    same, one = _same(q), tf.ones((), q.dtype)
    logs = tf.math.log(tf.where(same, one, p)) - tf.math.log(tf.where(same, one, q))
    return tf.reduce_sum(tf.where(same, zero(p), p * logs)) / size(q[:, 0])


def _mean_of(values: Any) -> Any:
    """Mean over everything; 0 for an empty batch."""
    return tf.reduce_sum(values) / size(values)


def _products(vectors: Any) -> Any:
    """[N, N] of [N, D]."""
    return tf.matmul(vectors, vectors, transpose_b=True)


def _same(square: Any) -> Any:
    """[N, N] booleans, True on the diagonal."""
    number = tf.range(tf.shape(square)[-1])
    return tf.equal(number[:, tf.newaxis], number[tf.newaxis])


def _differences(vectors: Any) -> Any:
    """[N, N, D]: from sample i to sample j."""
    return vectors[tf.newaxis] - vectors[:, tf.newaxis]


def _huber(x: Any, y: Any) -> Any:
    """The sum of Huber losses that become linear at 1."""
    apart = tf.abs(x - y)
    return tf.reduce_sum(tf.where(apart < 1, tf.square(apart) / 2, apart - 0.5))


def _relative_distances(differences: Any) -> Any:
    """[N, N] distances over their mean; zero where all samples are one."""
    distances = length(differences, 2)
    n = tf.cast(tf.shape(distances)[0], distances.dtype)
    average = tf.reduce_sum(distances) / tf.maximum(n * (n - 1), 1)
    apart = average > 0
    return tf.where(apart, distances / tf.where(apart, average, tf.ones_like(average)), zero(distances))


def _cosines(differences: Any) -> Any:
    """[N, N, N] cosines at i between the directions to j and to k; 0 for j = k, which says nothing."""
    cosines = _products(unit(differences, 2))
    return tf.where(_same(cosines), zero(cosines), cosines)


def _neighbours(vectors: Any, without_self: bool) -> Any:
    """[N, N] conditional probabilities p(j | i), none of them exactly 0."""
    smallest = epsilon(vectors.dtype)
    kernel = tf.maximum((_products(unit(vectors, 1)) + 1) / 2, smallest)
    if without_self:
        kernel = tf.where(_same(kernel), zero(kernel), kernel)
    return kernel / tf.maximum(tf.reduce_sum(kernel, 1, keepdims=True), smallest)
