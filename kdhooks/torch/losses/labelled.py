"""Losses between logits that need the labels.

Shapes are those of `kdhooks.torch.losses.logits`; `target` holds class indices in the shape of the
positions, and positions with a negative label (-100) don't count. No logarithm of a probability is
taken that could have rounded to 0: all of them come from a log-softmax.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhooks.losses.options import check_convention, check_label_share, check_margin
from kdhooks.torch.losses.positions import log_softmax, mean, prepare_labelled
from kdhooks.torch.losses.table import LOSSES


@LOSSES.register("dkd")
def dkd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    axis: int = -1,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Tensor:
    """Decoupled knowledge distillation: T² [alpha KL(b_T || b_S) + beta KL(p̂_T || p̂_S)].

    b = [p_target, 1 - p_target] is the target's own share, p̂ the distribution over the other classes
    alone. Sum over classes, mean over positions. ``alpha=1`` with beta = 1 - p_target of the teacher
    would be `kd`. Zhao et al. 2022, "Decoupled Knowledge Distillation", equations 4 to 7.

    Raises:
        UsageError: there is no target.
        ModelError: shapes that don't fit, or fewer than two classes.
    """
    student, teacher, label, counted = prepare_labelled("dkd", student_logits, teacher_logits, target, mask, axis)
    is_target = torch.zeros_like(student, dtype=torch.bool).scatter(axis, label, True)

    def decoupled(logits: Tensor) -> tuple[Tensor, Tensor]:
        logits = logits / temperature
        others = logits.masked_fill(is_target, -math.inf)
        # the two shares as a softmax over two logits, so that neither is 1 minus a rounded number
        both = torch.cat([logits.gather(axis, label), others.logsumexp(axis, keepdim=True)], axis)
        return both.log_softmax(axis), others.log_softmax(axis).masked_fill(is_target, 0.0)

    (student_share, student_others), (teacher_share, teacher_others) = decoupled(student), decoupled(teacher)
    share = F.kl_div(student_share, teacher_share, reduction="none", log_target=True)
    others = F.kl_div(student_others, teacher_others, reduction="none", log_target=True)
    return alpha * mean(share, counted, axis, temperature) + beta * mean(others, counted, axis, temperature)


@LOSSES.register("teacher_free")
def teacher_free(
    student_logits: Tensor,
    teacher_logits: Tensor | None = None,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    axis: int = -1,
    a: float = 0.99,
    convention: str = "paper",
) -> Tensor:
    """Tf-KD's regularisation by a teacher made of the labels: T² KL(u_T || softmax(z_student / T)).

    The virtual teacher u gives `a` to the label and (1 - a) / (C - 1) to every other class; u_T is
    softmax(log(u) / T). The teacher's logits are not read and may be None. Sum over classes, mean over
    positions. Yuan et al. 2020, "Revisiting Knowledge Distillation via Label Smoothing
    Regularization", equations 9 to 11.

    Args:
        student_logits: logits.
        teacher_logits: not read.
        temperature: T.
        target: class indices.
        mask: positions that count.
        axis: the class axis.
        a: the label's probability, above 1 / C and below 1.
        convention: ``paper`` as above; ``common`` is the authors' code: the probabilities themselves
            are softened, softmax(u / T), the student is not, and there is no T².

    Raises:
        UsageError: there is no target, or `a` is not between 0 and 1.
        ModelError: shapes that don't fit, or fewer than two classes.
    """
    check_label_share(a)
    paper = check_convention("teacher_free", convention)
    student, _, label, counted = prepare_labelled("teacher_free", student_logits, student_logits, target, mask, axis)
    other = (1 - a) / (student.shape[axis] - 1)
    values = (
        (math.log(a) / temperature, math.log(other) / temperature) if paper else (a / temperature, other / temperature)
    )
    virtual = torch.full_like(student, values[1]).scatter(axis, label, values[0]).log_softmax(axis)
    softened = temperature if paper else 1.0
    distance = F.kl_div(log_softmax(student, softened, axis), virtual, reduction="none", log_target=True)
    return mean(distance, counted, axis, softened)


@LOSSES.register("mft")
def mft(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    axis: int = -1,
    tau: float = 0.2,
    correct_all: bool = True,
) -> Tensor:
    """Minifinetuning, the label-corrected teacher: T² KL(p' || p_student), p' = (1 - m) p_teacher + m onehot(label).

    Where the teacher's most probable class is wrong, m = (p_max - p_label + tau) / (1 + p_max -
    p_label), so that the label leads that class by `tau`; where it is right and `correct_all`, m raises
    the label's probability by `tau`, at most to 1. Sum over classes, mean over positions. Belcak et al.
    2025, "Minifinetuning: Low-Data Generation Domain Adaptation through Corrective Self-Distillation".

    Args:
        student_logits: logits.
        teacher_logits: logits of the same shape.
        temperature: T; the softened distribution is what is corrected.
        target: class indices.
        mask: positions that count.
        axis: the class axis.
        tau: the margin, from 0 to 1.
        correct_all: also raise labels that the teacher has right.

    Raises:
        UsageError: there is no target, or `tau` is not from 0 to 1.
        ModelError: shapes that don't fit, or fewer than two classes.
    """
    check_margin(tau)
    student, teacher, label, counted = prepare_labelled("mft", student_logits, teacher_logits, target, mask, axis)
    p = log_softmax(teacher, temperature, axis).exp()
    of_label, (highest, chosen) = p.gather(axis, label), p.max(axis, keepdim=True)
    lead = highest - of_label
    room = (1 - of_label).clamp(min=max(tau, torch.finfo(p.dtype).tiny))
    right = tau / room if correct_all else torch.zeros_like(room)
    share = torch.where(chosen == label, right, (lead + tau) / (1 + lead))
    corrected = (p * (1 - share)).scatter_add(axis, label, share)
    distance = F.kl_div(log_softmax(student, temperature, axis), corrected, reduction="none")
    return mean(distance, counted, axis, temperature)
