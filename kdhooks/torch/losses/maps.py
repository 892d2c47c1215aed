"""Losses between feature maps that compare statistics of each sample's map: AT, NST, FSP, ICKD.

Shapes: maps [N, C, H, W], or tokens [N, T, D] with D as channels and T as positions. Channels of
student and teacher may differ where the docstring says so; space and tokens may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhooks.errors import ModelError
from kdhooks.losses.options import check_convention, check_kernel
from kdhooks.torch.losses.features import (
    channel_axis,
    channels_by_positions,
    check_fit,
    check_same_positions,
    in_full_precision,
    length,
    unit,
)
from kdhooks.torch.losses.positions import position_mask
from kdhooks.torch.losses.table import on_features


@on_features("attention_transfer")
@in_full_precision
def attention_transfer(
    student_feature: Tensor,
    teacher_feature: Tensor,
    *,
    mask: Tensor | None = None,
    p: float = 2.0,
    convention: str = "paper",
) -> Tensor:
    """Attention transfer: ||Q_S / ||Q_S|| - Q_T / ||Q_T|| ||₂ with Q = Σ_c |A_c|^p, a vector over positions.

    Zagoruyko & Komodakis 2017, "Paying More Attention to Attention", equation 2 without β / 2.

    Args:
        student_feature: map or tokens; channels may differ.
        teacher_feature: the same space or tokens.
        mask: positions that count.
        p: the power.
        convention: ``paper`` is the norm, mean over the batch; ``common`` is the authors' code, the
            squared difference, mean over the batch and positions.
    """
    paper = check_convention("attention_transfer", convention)
    check_same_positions("attention_transfer", student_feature, teacher_feature)
    own, theirs = student_feature, teacher_feature
    counted = None
    if mask is not None:
        counted = position_mask(own, mask, channel_axis(own), "features", "channels")
        own, theirs = own.where(counted, 0.0), theirs.where(counted, 0.0)
    student, teacher = (unit(channels_by_positions(one).abs().pow(p).sum(1), 1) for one in (own, theirs))
    difference = student - teacher
    if paper:
        return _mean(length(difference, 1))
    squared = difference.square()
    return _mean(squared) if counted is None else squared.sum() / counted.sum().clamp(min=1)


@on_features("nst")
@in_full_precision
def nst(
    student_feature: Tensor,
    teacher_feature: Tensor,
    *,
    kernel: str = "polynomial",
    degree: int = 2,
    offset: float = 0.0,
    sigma: float | None = None,
) -> Tensor:
    """Neuron selectivity transfer: MMD² between the channels' unit vectors over positions; mean over the batch.

    MMD² = mean k(t, t') + mean k(s, s') - 2 mean k(s, t) over all pairs of channels. Huang & Wang 2017,
    "Like What You Like: Knowledge Distill via Neuron Selectivity Transfer", equations 5 to 7.

    Args:
        student_feature: map or tokens; channels may differ.
        teacher_feature: the same space or tokens.
        kernel: ``linear`` x·y, ``polynomial`` (x·y + offset)^degree, ``gaussian`` exp(-||x - y||² / 2σ²).
        degree: of the polynomial.
        offset: of the polynomial.
        sigma: of the Gaussian; None takes σ² as the mean squared distance of student and teacher pairs,
            a constant for the gradient.
    """
    check_kernel(kernel)
    check_same_positions("nst", student_feature, teacher_feature)
    student, teacher = (unit(channels_by_positions(one), 2) for one in (student_feature, teacher_feature))
    if kernel == "linear":  # the mean of products is the product of means, without C × C numbers
        return _mean((student.mean(1) - teacher.mean(1)).square().sum(1))
    pairs = ((student, student), (teacher, teacher), (student, teacher))
    if kernel == "polynomial":
        own, theirs, cross = ((torch.bmm(x, y.mT) + offset).pow(degree) for x, y in pairs)
    else:
        distances = [_squared_distances(x, y) for x, y in pairs]
        variance: float | Tensor = distances[2].detach().mean((1, 2), keepdim=True).clamp(min=1e-12)
        if sigma is not None:
            variance = sigma**2
        own, theirs, cross = (torch.exp(distance / (-2 * variance)) for distance in distances)
    return _mean(own.mean((1, 2)) + theirs.mean((1, 2)) - 2 * cross.mean((1, 2)))


@on_features("fsp")
@in_full_precision
def fsp(student_feature: Any, teacher_feature: Any, *, convention: str = "paper") -> Tensor:
    """Flow of solution procedure: ||G_S - G_T||² with G = F₁ F₂ᵀ / (H W) between two layers' maps.

    Where the two maps of a model differ in space, the larger is max-pooled to the smaller. Yim et al.
    2017, "A Gift from Knowledge Distillation", equations 1 and 2.

    Args:
        student_feature: two maps [N, C₁, H, W] and [N, C₂, H', W'] of the student.
        teacher_feature: two maps of the teacher with the same channels.
        convention: ``paper`` sums over C₁ × C₂, mean over the batch; ``common`` is the mean over all.
    """
    paper = check_convention("fsp", convention)
    if isinstance(student_feature, Tensor) or len(student_feature) != 2:
        raise ModelError("the loss 'fsp' needs two features of each model, as (first, second)")
    student, teacher = _flow(student_feature), _flow(teacher_feature)
    check_fit("fsp", student, teacher, student.shape == teacher.shape, "the same channels in both pairs of maps")
    squared = (student - teacher).square()
    return _mean(squared.sum((1, 2))) if paper else _mean(squared)


@on_features("ickd")
@in_full_precision
def ickd(student_feature: Tensor, teacher_feature: Tensor, *, convention: str = "paper") -> Tensor:
    """Inter-channel correlation: ||G_S - G_T||² / C² with G = F Fᵀ over positions.

    Liu et al. 2021, "Exploring Inter-Channel Correlation for Diversity-preserved Knowledge
    Distillation", equations 2 and 4.

    Args:
        student_feature: map or tokens, with the teacher's channels (a matcher); space may differ.
        teacher_feature: map or tokens.
        convention: ``paper`` as above, mean over the batch; ``common`` is the authors' code, whose rows
            of G have length 1 and whose sum is divided by C.
    """
    paper = check_convention("ickd", convention)
    student, teacher = channels_by_positions(student_feature), channels_by_positions(teacher_feature)
    same = student.shape[:2] == teacher.shape[:2]
    check_fit("ickd", student_feature, teacher_feature, same, "two features of one batch and number of channels")
    own, theirs = torch.bmm(student, student.mT), torch.bmm(teacher, teacher.mT)
    channels = student.shape[1]
    if paper:
        return _mean((own - theirs).square().sum((1, 2))) / channels**2
    return _mean((unit(own, 2) - unit(theirs, 2)).square().sum((1, 2))) / channels


def _mean(values: Tensor) -> Tensor:
    """Mean over everything; 0 for an empty batch."""
    return values.sum() / max(1, values.numel())


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """||x_i - y_j||² of the rows of two batches of matrices: [N, C, P], [N, D, P] -> [N, C, D]."""
    squares = x.square().sum(2)[:, :, None] + y.square().sum(2)[:, None, :]
    return (squares - 2 * torch.bmm(x, y.mT)).clamp(min=0)


def _flow(pair: Sequence[Tensor]) -> Tensor:
    """[N, C₁, C₂]: how two maps go together, mean over space."""
    first, second = pair
    check_fit("fsp", first, second, first.ndim == second.ndim == 4, "maps [N, C, H, W]")
    space = [min(sizes) for sizes in zip(first.shape[2:], second.shape[2:], strict=True)]
    first, second = (
        one if list(one.shape[2:]) == space else F.adaptive_max_pool2d(one, space) for one in (first, second)
    )
    return torch.bmm(first.flatten(2), second.flatten(2).mT) / (space[0] * space[1])
