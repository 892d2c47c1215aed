"""Losses between the relations of a batch's samples: similarity preserving, RKD, correlation congruence, PKT.

A feature [N, ...] is one row a sample; the widths of student and teacher may differ, since only N × N
relations are compared. A batch of one has no relations: its loss is 0 with zero gradients (but for
`similarity_preserving` and `correlation_congruence`, whose single relation is constant).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhooks.losses.options import check_convention, check_order
from kdhooks.torch.losses.features import check_same_batch, in_full_precision, length, rows, unit
from kdhooks.torch.losses.table import on_features


@on_features("similarity_preserving")
@in_full_precision
def similarity_preserving(student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
    """Similarity preserving: ||G_S - G_T||² / N² with G the rows of F Fᵀ scaled to length 1.

    Tung & Mori 2019, "Similarity-Preserving Knowledge Distillation", equations 1 to 4.
    """
    check_same_batch("similarity_preserving", student_feature, teacher_feature)
    student, teacher = rows(student_feature), rows(teacher_feature)
    difference = unit(student @ student.T, 1) - unit(teacher @ teacher.T, 1)
    return difference.square().sum() / max(1, difference.numel())


@on_features("rkd")
@in_full_precision
def rkd(
    student_feature: Tensor,
    teacher_feature: Tensor,
    *,
    distance_weight: float = 25.0,
    angle_weight: float = 50.0,
    convention: str = "paper",
) -> Tensor:
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
    student, teacher = rows(student_feature), rows(teacher_feature)
    n = len(student)
    total = (student * 0).sum()
    if n < 2:
        return total
    own, theirs = student[None] - student[:, None], teacher[None] - teacher[:, None]
    if distance_weight:
        pairs = n * (n - 1) if paper else n * n
        difference = F.smooth_l1_loss(_relative_distances(own), _relative_distances(theirs), reduction="sum")
        total = total + distance_weight * difference / pairs
    if angle_weight and n > 2:
        triplets = n * (n - 1) * (n - 2) if paper else n**3
        difference = F.smooth_l1_loss(_cosines(own), _cosines(theirs), reduction="sum")
        total = total + angle_weight * difference / triplets
    return total


@on_features("correlation_congruence")
@in_full_precision
def correlation_congruence(
    student_feature: Tensor, teacher_feature: Tensor, *, gamma: float = 0.4, order: int | None = 2
) -> Tensor:
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

    def kernel(feature: Tensor) -> Tensor:
        vectors = unit(rows(feature), 1)
        products = vectors @ vectors.T
        if order is None:
            return torch.exp(2 * gamma * (products - 1))
        powers = [(2 * gamma) ** p / math.factorial(p) * products**p for p in range(order + 1)]
        return math.exp(-2 * gamma) * torch.stack(powers).sum(0)

    difference = kernel(student_feature) - kernel(teacher_feature)
    return difference.square().sum() / max(1, difference.numel())


@on_features("pkt")
@in_full_precision
def pkt(student_feature: Tensor, teacher_feature: Tensor, *, convention: str = "paper") -> Tensor:
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
        divergence = p * torch.log((p + 1e-7) / (q + 1e-7))
        return divergence.sum() / max(1, divergence.numel())
    others = ~torch.eye(len(q), dtype=torch.bool, device=q.device)
    divergence = torch.where(others, p * (p.where(others, 1.0).log() - q.where(others, 1.0).log()), 0.0)
    return divergence.sum() / max(1, len(q))


def _relative_distances(differences: Tensor) -> Tensor:
    """[N, N] distances over their mean; zero where all samples are one."""
    distances = length(differences, 2)
    n = len(distances)
    average = distances.sum() / (n * (n - 1))
    apart = average > 0
    return torch.where(apart, distances / torch.where(apart, average, 1.0), 0.0)


def _cosines(differences: Tensor) -> Tensor:
    """[N, N, N] cosines at i between the directions to j and to k; 0 for j = k, which says nothing."""
    directions = unit(differences, 2)
    same = torch.eye(len(directions), dtype=torch.bool, device=directions.device)
    return torch.bmm(directions, directions.mT).masked_fill(same, 0.0)


def _neighbours(vectors: Tensor, without_self: bool) -> Tensor:
    """[N, N] conditional probabilities p(j | i), none of them exactly 0."""
    directions = unit(vectors, 1)
    smallest = torch.finfo(vectors.dtype).eps
    kernel = ((directions @ directions.T + 1) / 2).clamp(min=smallest)
    if without_self:
        kernel = kernel.masked_fill(torch.eye(len(kernel), dtype=torch.bool, device=kernel.device), 0.0)
    return kernel / kernel.sum(1, keepdim=True).clamp(min=smallest)
