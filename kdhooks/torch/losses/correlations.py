"""Losses between logits that look at more than each position's own divergence: DIST, standardised logits, skewed KL.

Shapes and means are those of `kdhooks.torch.losses.logits`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhooks.losses.options import check_convention, check_skew
from kdhooks.torch.losses.features import unit
from kdhooks.torch.losses.positions import log_softmax, mean, prepare
from kdhooks.torch.losses.table import LOSSES


@LOSSES.register("dist")
def dist(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    axis: int = -1,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> Tensor:
    """DIST: T² [beta * inter + gamma * intra], each a mean of 1 - Pearson correlation of probabilities.

    Inter correlates the classes of one position, mean over positions; intra the positions of one
    class, mean over classes. Both are computed as half the squared distance of unit vectors, which is
    the same number without cancellation; two constant vectors are 0 apart. Huang et al. 2022,
    "Knowledge Distillation from A Stronger Teacher", equations 8 to 10.
    """
    student, teacher, mask = prepare(student_logits, teacher_logits, mask, axis)
    q, p = (log_softmax(one, temperature, axis).exp().movedim(axis, -1).flatten(0, -2) for one in (student, teacher))
    counted = None if mask is None else mask.movedim(axis, -1).flatten(0, -2)
    inter = (_directions(q, 1) - _directions(p, 1)).square() / 2
    intra = (_directions(q, 0, counted) - _directions(p, 0, counted)).square().sum() / (2 * q.shape[1])
    return beta * mean(inter, counted, 1, temperature) + gamma * temperature**2 * intra


@LOSSES.register("logit_standardization")
def logit_standardization(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    axis: int = -1,
    convention: str = "paper",
) -> Tensor:
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
        convention: ``paper`` divides by the deviation over C classes; ``common`` is the authors' code,
            with C - 1 (torch's `std`).
    """
    paper = check_convention("logit_standardization", convention)
    student, teacher, mask = prepare(student_logits, teacher_logits, mask, axis)
    classes = student.shape[axis]
    scale = math.sqrt(classes if paper else max(0, classes - 1))
    log_q, log_p = (log_softmax(_directions(one, axis) * scale, temperature, axis) for one in (student, teacher))
    return mean(F.kl_div(log_q, log_p, reduction="none", log_target=True), mask, axis, temperature)


@LOSSES.register("skewed_kl")
def skewed_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    axis: int = -1,
    alpha: float = 0.1,
    reverse: bool = False,
) -> Tensor:
    """Skewed KL: T² KL(p || alpha p + (1 - alpha) q), with p the teacher's probabilities and q the student's.

    With `reverse`, T² KL(q || (1 - alpha) p + alpha q). Both are `kd` and `reverse_kl` at ``alpha=0``.
    Sum over classes, mean over positions. Ko et al. 2024, "DistiLLM", section 3.1.

    Raises:
        UsageError: `alpha` is not from 0 to 1.
    """
    check_skew(alpha)
    student, teacher, mask = prepare(student_logits, teacher_logits, mask, axis)
    log_q, log_p = log_softmax(student, temperature, axis), log_softmax(teacher, temperature, axis)
    first, second = (log_q, log_p) if reverse else (log_p, log_q)
    if alpha > 0:
        other = math.log1p(-alpha) if alpha < 1 else -math.inf
        second = torch.logaddexp(first + math.log(alpha), second + other)
    return mean(F.kl_div(second, first, reduction="none", log_target=True), mask, axis, temperature)


def _directions(values: Tensor, dim: int, counted: Tensor | None = None) -> Tensor:
    """Values less their mean along `dim`, as unit vectors; zero where they are constant but for rounding."""
    if counted is None:
        centred = values - values.mean(dim, keepdim=True)
    else:
        values = values.where(counted, 0.0)
        centre = values.sum(dim, keepdim=True) / counted.sum(dim, keepdim=True).clamp(min=1)
        centred = (values - centre).where(counted, 0.0)
    rounding = (8 * torch.finfo(values.dtype).eps) ** 2
    return unit(centred, dim, noise=rounding * values.detach().square().sum(dim, keepdim=True))
