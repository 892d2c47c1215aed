"""Losses between feature maps that compare statistics of each sample's map: AT, NST, FSP, ICKD.

Shapes: maps [N, H, W, C], or tokens [N, T, D] with D as channels and T as positions. Channels of
student and teacher may differ where the docstring says so; space and tokens may not. `sample_weight`
is [N]: all are means over the samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kdhooks.errors import ModelError
from kdhooks.losses import shapes
from kdhooks.losses.options import check_convention, check_kernel
from kdhooks_tf.losses.features import (
    blanked_samples,
    check_fit,
    check_same_positions,
    in_full_precision,
    length,
    pooled,
    positions_by_channels,
    unit,
)
from kdhooks_tf.losses.positions import Counted, classes, position_mask, shape_of
from kdhooks_tf.losses.table import on_features


@on_features("attention_transfer")
@in_full_precision
def attention_transfer(
    student_feature: Any,
    teacher_feature: Any,
    *,
    mask: Any = None,
    sample_weight: Any = None,
    p: float = 2.0,
    convention: str = "paper",
) -> Any:
    """Attention transfer: ||Q_S / ||Q_S|| - Q_T / ||Q_T|| ||₂ with Q = Σ_c |A_c|^p, a vector over positions.

    Zagoruyko & Komodakis 2017, "Paying More Attention to Attention", equation 2 without β / 2.

    Args:
        student_feature: map or tokens; channels may differ.
        teacher_feature: the same space or tokens.
        mask: positions that count.
        sample_weight: [N].
        p: the power.
        convention: ``paper`` is the norm, mean over the batch; ``common`` is the authors' code, the
            squared difference, mean over the batch and positions.
    """
    paper = check_convention("attention_transfer", convention)
    check_same_positions("attention_transfer", student_feature, teacher_feature)
    places = Counted(position_mask(student_feature, mask, -1, "features", "channels"))
    student, teacher = places.blank(student_feature, teacher_feature)
    student, teacher, counted = blanked_samples(student, teacher, sample_weight)
    student, teacher = (
        unit(tf.reduce_sum(_power(tf.abs(positions_by_channels(one)), p), 2), 1) for one in (student, teacher)
    )
    difference = student - teacher
    if paper:
        return _mean(length(difference, 1), counted)
    return counted.total(tf.reduce_sum(tf.square(difference), 1)) / places.number(difference)


@on_features("nst")
@in_full_precision
def nst(
    student_feature: Any,
    teacher_feature: Any,
    *,
    sample_weight: Any = None,
    kernel: str = "polynomial",
    degree: int = 2,
    offset: float = 0.0,
    sigma: float | None = None,
) -> Any:
    """Neuron selectivity transfer: MMD² between the channels' unit vectors over positions; mean over the batch.

    MMD² = mean k(t, t') + mean k(s, s') - 2 mean k(s, t) over all pairs of channels. Huang & Wang 2017,
    "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", equations 5 to 7.

    Args:
        student_feature: map or tokens; channels may differ.
        teacher_feature: the same space or tokens.
        sample_weight: [N].
        kernel: ``linear`` x·y, ``polynomial`` (x·y + offset)^degree, ``gaussian`` exp(-||x - y||² / 2σ²).
        degree: of the polynomial.
        offset: of the polynomial.
        sigma: of the Gaussian; None takes σ² as the mean squared distance of student and teacher pairs,
            a constant for the gradient.
    """
    check_kernel(kernel)
    check_same_positions("nst", student_feature, teacher_feature)
    student, teacher, counted = blanked_samples(student_feature, teacher_feature, sample_weight)
    student, teacher = (unit(positions_by_channels(one), 1) for one in (student, teacher))
    if kernel == "linear":  # the mean of products is the product of means, without C × C numbers
        apart = tf.math.squared_difference(tf.reduce_mean(student, 2), tf.reduce_mean(teacher, 2))
        return _mean(tf.reduce_sum(apart, 1), counted)
    pairs = ((student, student), (teacher, teacher), (student, teacher))
    if kernel == "polynomial":
        kernels = [_power(tf.matmul(x, y, transpose_a=True) + offset, degree) for x, y in pairs]
    else:
        kernels = _gaussian([_squared_distances(x, y) for x, y in pairs], sigma)
    own, theirs, cross = (tf.reduce_mean(one, (1, 2)) for one in kernels)
    return _mean(own + theirs - 2 * cross, counted)


@on_features("fsp")
@in_full_precision
def fsp(student_feature: Any, teacher_feature: Any, *, sample_weight: Any = None, convention: str = "paper") -> Any:
    """Flow of solution procedure: ||G_S - G_T||² with G = F₁ F₂ᵀ / (H W) between two layers' maps.

    Where the two maps of a model differ in space, the larger is max-pooled to the smaller. Yim et al.
    2017, "A Gift from Knowledge Distillation", equations 1 and 2.

    Args:
        student_feature: two maps [N, H, W, C₁] and [N, H', W', C₂] of the student.
        teacher_feature: two maps of the teacher with the same channels.
        sample_weight: [N].
        convention: ``paper`` sums over C₁ × C₂, mean over the batch; ``common`` is the mean over all.
    """
    paper = check_convention("fsp", convention)
    if not isinstance(student_feature, list) or len(student_feature) != 2:
        raise ModelError("the loss 'fsp' needs two features of each model, as (first, second)")
    student_feature, teacher_feature, counted = blanked_samples(student_feature, teacher_feature, sample_weight)
    student, teacher = _flow(student_feature), _flow(teacher_feature)
    same = shapes.fits(shape_of(student), shape_of(teacher))
    check_fit("fsp", student, teacher, same, "the same channels in both pairs of maps")
    squared = tf.math.squared_difference(student, teacher)
    return _mean(tf.reduce_sum(squared, (1, 2)) if paper else tf.reduce_mean(squared, (1, 2)), counted)


@on_features("ickd")
@in_full_precision
def ickd(student_feature: Any, teacher_feature: Any, *, sample_weight: Any = None, convention: str = "paper") -> Any:
    """Inter-channel correlation: ||G_S - G_T||² / C² with G = F Fᵀ over positions.

    Liu et al. 2021, "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge
    Distillation", equations 2 and 4.

    Args:
        student_feature: map or tokens, with the teacher's channels (a matcher); space may differ.
        teacher_feature: map or tokens.
        sample_weight: [N].
        convention: ``paper`` as above, mean over the batch; ``common`` is the authors' code, whose rows
            of G have length 1 and whose sum is divided by C.
    """
    paper = check_convention("ickd", convention)
    ends = ([shape_of(one)[0], shape_of(one)[-1]] for one in (student_feature, teacher_feature))
    check_fit(
        "ickd", student_feature, teacher_feature, shapes.fits(*ends), "two features of one batch and number of channels"
    )
    student, teacher, counted = blanked_samples(student_feature, teacher_feature, sample_weight)
    student, teacher = positions_by_channels(student), positions_by_channels(teacher)
    own, theirs = tf.matmul(student, student, transpose_a=True), tf.matmul(teacher, teacher, transpose_a=True)
    channels = classes(own)
    if paper:
        return _mean(tf.reduce_sum(tf.math.squared_difference(own, theirs), (1, 2)), counted) / tf.square(channels)
    apart = tf.math.squared_difference(unit(own, 2), unit(theirs, 2))
    return _mean(tf.reduce_sum(apart, (1, 2)), counted) / channels


def _mean(values: Any, counted: Counted) -> Any:
    """Weighted mean of one value a sample; 0 for an empty batch."""
    return counted.total(values) / counted.number(values)


def _power(values: Any, exponent: float) -> Any:
    if exponent == 1:
        return values
    return tf.square(values) if exponent == 2 else tf.pow(values, tf.constant(exponent, values.dtype))


def _squared_distances(x: Any, y: Any) -> Any:
    """||x_i - y_j||² of the columns of two batches of matrices: [N, P, C], [N, P, D] -> [N, C, D]."""
    squares = tf.reduce_sum(tf.square(x), 1)[:, :, tf.newaxis] + tf.reduce_sum(tf.square(y), 1)[:, tf.newaxis]
    return tf.maximum(squares - 2 * tf.matmul(x, y, transpose_a=True), 0)


def _gaussian(distances: Sequence[Any], sigma: float | None) -> list[Any]:
    """Kernels of squared distances, of which the last are those of student and teacher."""
    variance: Any = tf.maximum(tf.reduce_mean(tf.stop_gradient(distances[2]), (1, 2), keepdims=True), 1e-12)
    if sigma is not None:
        variance = sigma**2
    return [tf.exp(distance / (-2 * variance)) for distance in distances]


def _flow(pair: Sequence[Any]) -> Any:
    """[N, C₁, C₂]: how two maps go together, mean over space."""
    first, second = pair
    check_fit("fsp", first, second, len(first.shape) == len(second.shape) == 4, "maps [N, H, W, C]")
    spaces = [shape_of(one)[1:3] for one in pair]
    if None not in spaces[0] + spaces[1]:
        height, width = (min(sizes) for sizes in zip(*spaces, strict=True))
        first, second = (pooled(one, (height, width), tf.reduce_max) for one in pair)
    else:
        check_fit("fsp", first, second, spaces[0] == spaces[1], "maps whose height and width are known, or equal")
    first, second = positions_by_channels(first), positions_by_channels(second)
    return tf.matmul(first, second, transpose_a=True) / tf.cast(tf.shape(first)[1], first.dtype)
