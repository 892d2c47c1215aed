"""Losses between features of one shape that compare position by position: hint, cosine, patient, and the plain ones.

Shapes: those of `kdhooks_tf.losses.features`; `mask` has the shape of the positions, [N] for rows,
[N, T] for tokens, [N, H, W] for maps, and `sample_weight` too or [N]. Every function returns a scalar.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kdhooks.losses.options import check_convention
from kdhooks_tf.losses import logits
from kdhooks_tf.losses.features import (
    blanked,
    check_fit,
    check_same_shape,
    in_full_precision,
    safe_root,
    samples,
    unit,
)
from kdhooks_tf.losses.positions import Counted, classes
from kdhooks_tf.losses.table import on_features


@on_features("MSE")
@in_full_precision
def feature_mse(student_feature: Any, teacher_feature: Any, *, mask: Any = None, sample_weight: Any = None) -> Any:
    """Mean squared error; mean over channels and the positions that count."""
    check_same_shape("MSE", student_feature, teacher_feature)
    student, teacher, counted = blanked(student_feature, teacher_feature, mask, sample_weight)
    return counted.mean(tf.math.squared_difference(student, teacher)) / classes(student)


@on_features("L1")
@in_full_precision
def feature_l1(student_feature: Any, teacher_feature: Any, *, mask: Any = None, sample_weight: Any = None) -> Any:
    """Mean absolute difference; mean over channels and the positions that count."""
    check_same_shape("L1", student_feature, teacher_feature)
    student, teacher, counted = blanked(student_feature, teacher_feature, mask, sample_weight)
    return counted.mean(tf.abs(student - teacher)) / classes(student)


@on_features("KL", "kd")
@in_full_precision
def feature_kl(
    student_feature: Any,
    teacher_feature: Any,
    *,
    mask: Any = None,
    sample_weight: Any = None,
    temperature: Any = 1.0,
) -> Any:
    """KL of the softmax over channels, T² KL(p_teacher || p_student).

    Sum over channels, mean over the positions that count: `kd` with the channels as classes.
    """
    check_same_shape("KL", student_feature, teacher_feature)
    weighed = {"mask": mask, "sample_weight": sample_weight}
    return logits.kd(student_feature, teacher_feature, temperature=temperature, **weighed)


@on_features("CE")
@in_full_precision
def feature_cross_entropy(
    student_feature: Any,
    teacher_feature: Any,
    *,
    mask: Any = None,
    sample_weight: Any = None,
    temperature: Any = 1.0,
) -> Any:
    """Cross-entropy of the softmax over channels, -T² Σ p_teacher log p_student.

    Sum over channels, mean over the positions that count.
    """
    check_same_shape("CE", student_feature, teacher_feature)
    weighed = {"mask": mask, "sample_weight": sample_weight}
    return logits.cross_entropy(student_feature, teacher_feature, temperature=temperature, **weighed)


@on_features("hint")
@in_full_precision
def hint(
    student_feature: Any,
    teacher_feature: Any,
    *,
    mask: Any = None,
    sample_weight: Any = None,
    convention: str = "paper",
) -> Any:
    """FitNets' hint loss: ½ ||student - teacher||², the student's feature after its regressor (a matcher).

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", equation 3.

    Args:
        student_feature: of any shape, batch first.
        teacher_feature: of the same shape.
        mask: positions that count.
        sample_weight: [N] or of the positions.
        convention: ``paper`` sums over everything but the batch, mean over the samples that have a
            position that counts; ``common`` is the mean squared error of the implementations people
            compare with, mean over everything, without ½.
    """
    paper = check_convention("hint", convention)
    check_same_shape("hint", student_feature, teacher_feature)
    if not paper:
        return feature_mse(student_feature, teacher_feature, mask=mask, sample_weight=sample_weight)
    student, teacher, counted = blanked(student_feature, teacher_feature, mask, sample_weight)
    return _mean_of_samples(student, teacher, counted) / 2


@on_features("L2")
@in_full_precision
def feature_l2(
    student_feature: Any,
    teacher_feature: Any,
    *,
    mask: Any = None,
    sample_weight: Any = None,
    convention: str = "paper",
) -> Any:
    """Self-distillation's hint loss: ||student - teacher||².

    Zhang et al. 2019, "Be Your Own Teacher", equation 6.

    Args:
        student_feature: of any shape, batch first.
        teacher_feature: of the same shape.
        mask: positions that count.
        sample_weight: [N] or of the positions; in the norm of ``common`` it weighs the squares.
        convention: ``paper`` sums over everything but the batch, mean over the samples that have a
            position that counts; ``common`` is the norm of the whole batch's difference, not squared and
            no mean, as in the authors' code; its gradient is 0 where nothing differs.
    """
    paper = check_convention("L2", convention)
    check_same_shape("L2", student_feature, teacher_feature)
    student, teacher, counted = blanked(student_feature, teacher_feature, mask, sample_weight)
    if not paper:
        return safe_root(counted.total(tf.reduce_sum(tf.math.squared_difference(student, teacher), -1)))
    return _mean_of_samples(student, teacher, counted)


@on_features("cosine")
@in_full_precision
def cosine(student_feature: Any, teacher_feature: Any, *, mask: Any = None, sample_weight: Any = None) -> Any:
    """1 - cos(student, teacher) along the channels; mean over the positions that count.

    Computed as half the squared distance of the unit vectors, the same number without cancellation;
    two zero vectors are 0 apart. Sanh et al. 2019, "DistilBERT", section 3.
    """
    check_same_shape("cosine", student_feature, teacher_feature)
    student, teacher, counted = blanked(student_feature, teacher_feature, mask, sample_weight)
    return counted.mean(tf.math.squared_difference(unit(student, -1), unit(teacher, -1))) / 2


@on_features("pkd")
@in_full_precision
def pkd(
    student_feature: Any,
    teacher_feature: Any,
    *,
    mask: Any = None,
    sample_weight: Any = None,
    token: int | None = 0,
    convention: str = "paper",
) -> Any:
    """Patient distillation: ||s / ||s|| - t / ||t|| ||² of the class token's hidden state.

    Sun et al. 2019, "Patient Knowledge Distillation for BERT Model Compression", equation 7 for one
    layer.

    Args:
        student_feature: hidden states [N, T, D], or rows [N, D].
        teacher_feature: of the same shape.
        mask: tokens [N, T] (or samples [N]) that count.
        sample_weight: [N], or [N, T].
        token: the token that is compared; None compares all of them.
        convention: ``paper`` sums over D, ``common`` is the mean over D of the authors' code; both are
            means over the samples, or tokens, that count.
    """
    paper = check_convention("pkd", convention)
    check_same_shape("pkd", student_feature, teacher_feature)
    tokens_or_rows = len(student_feature.shape) in (2, 3)
    check_fit("pkd", student_feature, teacher_feature, tokens_or_rows, "hidden states [N, T, D] or rows [N, D]")
    student, teacher, counted = blanked(student_feature, teacher_feature, mask, sample_weight)
    if len(student.shape) == 3 and token is not None:
        student, teacher, counted = student[:, token], teacher[:, token], _at_token(counted, token)
    distance = counted.mean(tf.math.squared_difference(unit(student, -1), unit(teacher, -1)))
    return distance if paper else distance / classes(student)


def _at_token(counted: Counted, token: int) -> Counted:
    weight = counted.weight
    if weight is not None:
        weight = weight[:, 0 if weight.shape[1] == 1 else token]  # size 1: a weight for each sample
    return Counted(None if counted.mask is None else counted.mask[:, token], weight)


def _mean_of_samples(student: Any, teacher: Any, counted: Counted) -> Any:
    """The weighted sum of squared differences, over the number of samples that have a position that counts."""
    values = tf.reduce_sum(tf.math.squared_difference(student, teacher), -1)
    return counted.total(values) / samples(values, counted)
