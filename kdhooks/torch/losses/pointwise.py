"""Losses between features of one shape that compare position by position: hint, cosine, patient, and the plain ones.

Shapes: those of `kdhooks.torch.losses.features`; `mask` has the shape of the positions, [N] for rows,
[N, T] for tokens, [N, H, W] for maps. Every function returns a scalar.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhooks.losses.options import check_convention
from kdhooks.torch.losses import logits
from kdhooks.torch.losses.features import (
    blanked,
    channel_axis,
    check_fit,
    check_same_shape,
    in_full_precision,
    unit,
)
from kdhooks.torch.losses.positions import mean
from kdhooks.torch.losses.table import on_features


@on_features("MSE")
@in_full_precision
def feature_mse(student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean squared error; mean over channels and the positions that count."""
    check_same_shape("MSE", student_feature, teacher_feature)
    if mask is None:  # one operation, where the general road makes copies of whole features
        return F.mse_loss(student_feature, teacher_feature)
    axis = channel_axis(student_feature)
    student, teacher, mask = blanked(student_feature, teacher_feature, mask, axis)
    return mean((student - teacher).square(), mask, axis) / student.shape[axis]


@on_features("L1")
@in_full_precision
def feature_l1(student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Mean absolute difference; mean over channels and the positions that count."""
    check_same_shape("L1", student_feature, teacher_feature)
    if mask is None:  # one operation, where the general road makes copies of whole features
        return F.l1_loss(student_feature, teacher_feature)
    axis = channel_axis(student_feature)
    student, teacher, mask = blanked(student_feature, teacher_feature, mask, axis)
    return mean((student - teacher).abs(), mask, axis) / student.shape[axis]


@on_features("KL", "kd")
@in_full_precision
def feature_kl(
    student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """KL of the softmax over channels, T² KL(p_teacher || p_student).

    Sum over channels, mean over the positions that count: `kd` with the channels as classes (channel
    1 of a map, the last axis of tokens and rows).
    """
    check_same_shape("KL", student_feature, teacher_feature)
    axis = channel_axis(student_feature)
    divergence: Tensor = logits.kd(student_feature, teacher_feature, temperature=temperature, mask=mask, axis=axis)
    return divergence


@on_features("CE")
@in_full_precision
def feature_cross_entropy(
    student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None, temperature: float = 1.0
) -> Tensor:
    """Cross-entropy of the softmax over channels, -T² Σ p_teacher log p_student.

    Sum over channels, mean over the positions that count.
    """
    check_same_shape("CE", student_feature, teacher_feature)
    axis = channel_axis(student_feature)
    divergence: Tensor = logits.cross_entropy(
        student_feature, teacher_feature, temperature=temperature, mask=mask, axis=axis
    )
    return divergence


@on_features("hint")
@in_full_precision
def hint(
    student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None, convention: str = "paper"
) -> Tensor:
    """FitNets' hint loss: ½ ||student - teacher||², the student's feature after its regressor (a matcher).

    Romero et al. 2015, "FitNets: Hints for Thin Deep Nets", equation 3.

    Args:
        student_feature: of any shape, batch first.
        teacher_feature: of the same shape.
        mask: positions that count.
        convention: ``paper`` sums over everything but the batch, mean over the samples that have a
            position that counts; ``common`` is the mean squared error of the implementations people
            compare with, mean over everything, without ½.
    """
    paper = check_convention("hint", convention)
    check_same_shape("hint", student_feature, teacher_feature)
    if not paper:
        result: Tensor = feature_mse(student_feature, teacher_feature, mask=mask)
        return result
    axis = channel_axis(student_feature)
    student, teacher, mask = blanked(student_feature, teacher_feature, mask, axis)
    half = (student - teacher).square().sum() / 2
    return half / (max(1, len(student)) if mask is None else mask.flatten(1).any(1).sum().clamp(min=1))


@on_features("L2")
@in_full_precision
def feature_l2(
    student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None, convention: str = "paper"
) -> Tensor:
    """Self-distillation's hint loss: ||student - teacher||².

    Zhang et al. 2019, "Be Your Own Teacher", equation 6.

    Args:
        student_feature: of any shape, batch first.
        teacher_feature: of the same shape.
        mask: positions that count.
        convention: ``paper`` sums over everything but the batch, mean over the samples that have a
            position that counts; ``common`` is the norm of the whole batch's difference, not squared and
            no mean, as in the authors' code.
    """
    paper = check_convention("L2", convention)
    check_same_shape("L2", student_feature, teacher_feature)
    student, teacher, mask = blanked(student_feature, teacher_feature, mask, channel_axis(student_feature))
    if not paper:
        norm: Tensor = torch.linalg.vector_norm(student - teacher)
        return norm
    squares: Tensor = (student - teacher).square().sum()
    return squares / (max(1, len(student)) if mask is None else mask.flatten(1).any(1).sum().clamp(min=1))


@on_features("cosine")
@in_full_precision
def cosine(student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """1 - cos(student, teacher) along the channels; mean over the positions that count.

    Computed as half the squared distance of the unit vectors, the same number without cancellation;
    two zero vectors are 0 apart. Sanh et al. 2019, "DistilBERT", section 3.
    """
    check_same_shape("cosine", student_feature, teacher_feature)
    axis = channel_axis(student_feature)
    student, teacher, mask = blanked(student_feature, teacher_feature, mask, axis)
    return mean((unit(student, axis) - unit(teacher, axis)).square(), mask, axis) / 2


@on_features("pkd")
@in_full_precision
def pkd(
    student_feature: Tensor,
    teacher_feature: Tensor,
    *,
    mask: Tensor | None = None,
    token: int | None = 0,
    convention: str = "paper",
) -> Tensor:
    """Patient distillation: ||s / ||s|| - t / ||t|| ||² of the class token's hidden state.

    Sun et al. 2019, "Patient Knowledge Distillation for BERT Model Compression", equation 7 for one
    layer.

    Args:
        student_feature: hidden states [N, T, D], or rows [N, D].
        teacher_feature: of the same shape.
        mask: tokens [N, T] (or samples [N]) that count.
        token: the token that is compared; None compares all of them.
        convention: ``paper`` sums over D, ``common`` is the mean over D of the authors' code; both are
            means over the samples, or tokens, that count.
    """
    paper = check_convention("pkd", convention)
    check_same_shape("pkd", student_feature, teacher_feature)
    tokens_or_rows = student_feature.ndim in (2, 3)
    check_fit("pkd", student_feature, teacher_feature, tokens_or_rows, "hidden states [N, T, D] or rows [N, D]")
    student, teacher, mask = blanked(student_feature, teacher_feature, mask, -1)
    if student.ndim == 3 and token is not None:
        student, teacher = student[:, token], teacher[:, token]
        mask = None if mask is None else mask[:, token]
    distance = mean((unit(student, -1) - unit(teacher, -1)).square(), mask, -1)
    return distance if paper else distance / student.shape[-1]
