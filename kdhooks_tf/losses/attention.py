"""Losses between what transformers attend to: attention maps and relations of values.

Shapes: attention [N, heads, T, T] (queries, then keys), values [N, heads, T, d] or [N, T, D]; `mask`
[N, T] says which tokens are not padding, for queries and for keys; `sample_weight` is [N]. Student and
teacher have the same number of heads and tokens.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kdhooks.errors import ModelError
from kdhooks.losses import shapes
from kdhooks_tf.losses.features import blanked_samples, check_fit, in_full_precision
from kdhooks_tf.losses.positions import Counted, divergence, epsilon, shape_of, zero
from kdhooks_tf.losses.table import on_features

_NOWHERE = -1e30  # a score that no query attends to, also where the model says -inf


@on_features("attention_kl")
@in_full_precision
def attention_kl(
    student_feature: Any,
    teacher_feature: Any,
    *,
    mask: Any = None,
    sample_weight: Any = None,
    scores: bool = False,
) -> Any:
    """KL(A_teacher || A_student) of attention over keys; mean over batch, heads and queries that count.

    Wang et al. 2020, "MiniLM", equation 6. TinyBERT's own loss on attention scores is their mean
    squared error (Jiao et al. 2020, equation 7): ``MSE``.

    Args:
        student_feature: [N, heads, T, T] attention probabilities, as transformers return them.
        teacher_feature: of the same shape.
        mask: [N, T], tokens that count.
        sample_weight: [N].
        scores: what is given are scores before the softmax (-inf where nothing may attend).
    """
    student, teacher = shape_of(student_feature), shape_of(teacher_feature)
    fits = shapes.fits(student, teacher) and len(student) == 4
    check_fit("attention_kl", student_feature, teacher_feature, fits, "attention [N, heads, T, T] of one shape")
    tokens = _tokens(student_feature, mask, student[3])
    student, teacher, counted = blanked_samples(student_feature, teacher_feature, sample_weight)
    log_q, log_p = (_log_attention(one, _pairs(tokens), scores) for one in (student, teacher))
    return _mean_divergence(log_p, log_q, tokens, counted)


@on_features("value_relation")
@in_full_precision
def value_relation(
    student_feature: Any,
    teacher_feature: Any,
    *,
    mask: Any = None,
    sample_weight: Any = None,
    heads: int | None = None,
) -> Any:
    """KL(R_teacher || R_student) with R = softmax(V Vᵀ / √d); mean over batch, heads and queries that count.

    Wang et al. 2020, "MiniLM", equations 8 to 10; with `heads` as relation heads, MiniLMv2.

    Args:
        student_feature: values [N, heads, T, d], or hidden values [N, T, D] that `heads` divides.
        teacher_feature: the same with any width.
        mask: [N, T], tokens that count.
        sample_weight: [N].
        heads: for [N, T, D]: how many heads to split it into; None is one.
    """
    student, teacher = _by_heads(student_feature, heads), _by_heads(teacher_feature, heads)
    same = shapes.fits(shape_of(student)[:3], shape_of(teacher)[:3])
    check_fit("value_relation", student_feature, teacher_feature, same, "values of one batch, heads and tokens")
    tokens = _tokens(student, mask, shape_of(student)[2])
    student, teacher, counted = blanked_samples(student, teacher, sample_weight)
    if tokens is not None:
        held = tokens[:, tf.newaxis, :, tf.newaxis]
        student, teacher = (tf.where(held, one, zero(one)) for one in (student, teacher))
    log_q, log_p = (_log_attention(_relations(one), _pairs(tokens), True) for one in (student, teacher))
    return _mean_divergence(log_p, log_q, tokens, counted)


def _relations(values: Any) -> Any:
    """V Vᵀ / √d."""
    width = tf.cast(tf.shape(values)[3], values.dtype)
    return tf.matmul(values, values, transpose_b=True) / tf.sqrt(width)


def _by_heads(values: Any, heads: int | None) -> Any:
    """[N, heads, T, d] of values."""
    known = shape_of(values)
    if len(known) == 4:
        return values
    heads = heads or 1
    if len(known) != 3 or known[2] is None or known[2] % heads:
        raise ModelError(
            f"the loss 'value_relation' needs values [N, heads, T, d], or [N, T, D] with D divisible by heads={heads}; "
            f"a feature has shape {known}"
        )
    batch, tokens = (tf.shape(values)[axis] if known[axis] is None else known[axis] for axis in (0, 1))
    return tf.transpose(tf.reshape(values, [batch, tokens, heads, known[2] // heads]), [0, 2, 1, 3])


def _log_attention(attention: Any, pairs: Any, scores: bool) -> Any:
    """Log-probabilities over the keys that count; those that don't are at `_NOWHERE`."""
    nowhere = tf.constant(_NOWHERE, attention.dtype)
    if scores:
        attention = attention if pairs is None else tf.where(pairs, attention, nowhere)
        return tf.nn.log_softmax(tf.maximum(attention, nowhere))
    if pairs is not None:  # blanked before the logarithm, whose slope at 0 is infinite
        attention = tf.where(pairs, attention, tf.ones((), attention.dtype))
    logs = tf.math.log(tf.maximum(attention, epsilon(attention.dtype)))
    return logs if pairs is None else tf.where(pairs, logs, nowhere)


def _pairs(tokens: Any) -> Any:
    """[N, 1, T, T]: a query that counts and a key that counts; None where all count."""
    if tokens is None:
        return None
    return tf.logical_and(tokens[:, tf.newaxis, :, tf.newaxis], tokens[:, tf.newaxis, tf.newaxis])


def _tokens(feature: Any, mask: Any, tokens: int | None) -> Any:
    """The mask [N, T] as booleans, or None."""
    if mask is None:
        return None
    mask = tf.convert_to_tensor(mask)
    shapes.check_tokens(shape_of(mask), [shape_of(feature)[0], tokens])
    return tf.cast(mask, tf.bool)


def _mean_divergence(log_p: Any, log_q: Any, tokens: Any, counted: Counted) -> Any:
    """KL(p || q): sum over keys, mean over batch, heads and queries."""
    distance = divergence(log_p, log_q)
    if tokens is not None:
        distance = tf.where(_pairs(tokens), distance, zero(distance))
    values = tf.reduce_sum(distance, -1)
    each = (
        tf.ones_like(values) if tokens is None else tf.cast(tokens, values.dtype)[:, tf.newaxis] * tf.ones_like(values)
    )
    return counted.total(tf.reduce_sum(values, (1, 2))) / tf.maximum(tf.reduce_sum(each), 1)
