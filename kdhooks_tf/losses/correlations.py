"""Losses between logits that look at more than each position's own divergence: DIST, standardised logits, skewed KL.

Shapes and means are those of `kdhooks_tf.losses.logits`.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from kdhooks.losses.options import check_convention, check_skew
from kdhooks_tf.losses.features import unit
from kdhooks_tf.losses.logits import log_add
from kdhooks_tf.losses.positions import Counted, classes, divergence, epsilon, log_softmax, prepare, squared, zero
from kdhooks_tf.losses.table import on_logits


@on_logits("dist")
def dist(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    target: Any = None,
    mask: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Any:
    """DIST: T² [beta * inter + gamma * intra], each a mean of 1 - Pearson correlation of probabilities.

    Inter correlates the classes of one position, mean over positions; intra the positions of one
    class, mean over classes. Both are computed as half the squared distance of unit vectors, which is
    the same number without cancellation; two constant vectors are 0 apart. With `sample_weight` inter is
    the weighted mean, and intra a weighted correlation times the mean of the weights. Huang et al. 2022,
    "Knowledge Distillation from A Stronger Teacher", equations 8 to 10.
    """
    student, teacher, counted = prepare(student_logits, teacher_logits, mask, axis, sample_weight)
    q, p = (tf.exp(log_softmax(one, temperature)) for one in (student, teacher))
    inter = tf.math.squared_difference(_directions(q), _directions(p)) / 2
    columns, mean_weight = _columns(q, counted)
    apart = tf.math.squared_difference(_directions_over(q, columns), _directions_over(p, columns))
    intra = tf.reduce_sum(apart) / (2 * classes(q)) * mean_weight
    return beta * counted.mean(inter, temperature) + gamma * squared(temperature, q.dtype) * intra


@on_logits("logit_standardization")
def logit_standardization(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    target: Any = None,
    mask: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
    convention: str = "paper",
) -> Any:
    """KL of standardised logits: `kd` of Z(z) = (z - mean) / deviation over the classes.

    Sum over classes, mean over positions; neither a shift nor a positive scale of the logits changes it.
    Sun et al. 2024, "Logit Standardization in Knowledge Distillation", algorithms 1 and 2.

    Args:
        student_logits: logits.
        teacher_logits: logits of the same shape.
        temperature: T, the base temperature of the paper.
        target: not read.
        mask: positions that count.
        axis: the class axis.
        sample_weight: of the positions.
        convention: ``paper`` divides by the deviation over C classes; ``common`` is the authors' code,
            with C - 1.
    """
    paper = check_convention("logit_standardization", convention)
    student, teacher, counted = prepare(student_logits, teacher_logits, mask, axis, sample_weight)
    scale = tf.sqrt(classes(student) if paper else classes(student) - 1)
    log_q, log_p = (log_softmax(_directions(one) * scale, temperature) for one in (student, teacher))
    return counted.mean(divergence(log_p, log_q), temperature)


@on_logits("skewed_kl")
def skewed_kl(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    target: Any = None,
    mask: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
    alpha: float = 0.1,
    reverse: bool = False,
) -> Any:
    """Skewed KL: T² KL(p || alpha p + (1 - alpha) q), with p the teacher's probabilities and q the student's.

    With `reverse`, T² KL(q || (1 - alpha) p + alpha q). Both are `kd` and `reverse_kl` at ``alpha=0``.
    Sum over classes, mean over positions. Ko et al. 2024, "DistiLLM", section 3.1.

    Raises:
        UsageError: `alpha` is not from 0 to 1.
    """
    check_skew(alpha)
    student, teacher, counted = prepare(student_logits, teacher_logits, mask, axis, sample_weight)
    log_q, log_p = log_softmax(student, temperature), log_softmax(teacher, temperature)
    first, second = (log_q, log_p) if reverse else (log_p, log_q)
    if alpha > 0:
        other = math.log1p(-alpha) if alpha < 1 else -math.inf
        second = log_add(first + math.log(alpha), second + other)
    return counted.mean(divergence(first, second), temperature)


def _directions(values: Any) -> Any:
    """Values less their mean over the last axis, as unit vectors; zero where they are constant but for rounding."""
    centred = values - tf.reduce_mean(values, -1, keepdims=True)
    return unit(centred, -1, noise=_rounding(values, -1))


def _columns(values: Any, counted: Counted) -> tuple[Any, Any]:
    """[positions, 1] weights in a correlation over positions, which are 0 where one doesn't count; and their mean."""
    weights = tf.ones_like(values[..., 0])
    number = counted.number(weights)
    if counted.weight is not None:
        weights = weights * counted.weight
    if counted.mask is not None:
        weights = tf.where(counted.mask, weights, zero(weights))
    return tf.reshape(weights, [-1, 1]), tf.reduce_sum(weights) / number


def _directions_over(values: Any, weights: Any) -> Any:
    """[positions, C]: `_directions` of each class over all positions, with their weights [positions, 1]."""
    rows = tf.reshape(values, [tf.size(weights), tf.shape(values)[-1]])
    counts = tf.greater(weights, 0)
    rows = tf.where(counts, rows, zero(rows))
    total = tf.reduce_sum(weights)
    total = tf.where(total > 0, total, tf.ones_like(total))
    centred = rows - tf.reduce_sum(weights * rows, 0, keepdims=True) / total
    scale = tf.where(counts, tf.sqrt(tf.where(counts, weights, tf.ones_like(weights))), zero(weights))
    return unit(centred * scale, 0, noise=_rounding(rows * scale, 0))


def _rounding(values: Any, axis: int) -> Any:
    """The squared length that rounding alone may leave of constant values."""
    share = (8 * epsilon(values.dtype)) ** 2
    return share * tf.reduce_sum(tf.square(tf.stop_gradient(values)), axis, keepdims=True)
