"""Losses between the logits of a student and a teacher.

Shapes: both logits [N, C], [N, T, C] with ``axis=-1``, or [N, C, H, W] with ``axis=1``; a *position*
is what is left without the class axis: a row, a token, a pixel. `mask` and `target` have the shape of
the positions. Every function returns a scalar: the mean over the positions that count, or 0 where
none does.

Half-precision logits are computed on in float32: a softmax over many classes loses its tail in fewer
bits. Gradients of a softened distribution shrink as 1/T², so what is softened is multiplied by T²
(Hinton, Vinyals & Dean 2015, section 2), which keeps the balance of terms when T changes.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhooks.torch.losses.positions import counted, log_softmax, mean, prepare
from kdhooks.torch.losses.table import LOSSES


@LOSSES.register("KL", "kd")
def kd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """Knowledge distillation: T² KL(p_teacher || p_student), p = softmax(z / T).

    Sum over classes, mean over positions. Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a
    Neural Network", section 2.
    """
    student, teacher, mask = counted(student_logits, teacher_logits, mask, axis)
    log_q, log_p = log_softmax(student, temperature, axis), log_softmax(teacher, temperature, axis)
    return mean(F.kl_div(log_q, log_p, reduction="none", log_target=True), mask, axis, temperature)


@LOSSES.register("reverse_KL")
def reverse_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """Reverse KL: T² KL(p_student || p_teacher), which seeks modes instead of covering them.

    Sum over classes, mean over positions. Gu et al. 2024, "MiniLLM", equation 1.
    """
    student, teacher, mask = counted(student_logits, teacher_logits, mask, axis)
    log_q, log_p = log_softmax(student, temperature, axis), log_softmax(teacher, temperature, axis)
    return mean(F.kl_div(log_p, log_q, reduction="none", log_target=True), mask, axis, temperature)


@LOSSES.register("JSD")
def jsd(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """Jensen-Shannon divergence: T² [KL(p || m) + KL(q || m)] / 2 with m = (p + q) / 2.

    Sum over classes, mean over positions; symmetric, at most T² log 2. Lin 1991, "Divergence Measures
    Based on the Shannon Entropy", equation 3.5 with equal weights.
    """
    student, teacher, mask = prepare(student_logits, teacher_logits, mask, axis)
    log_q, log_p = log_softmax(student, temperature, axis), log_softmax(teacher, temperature, axis)
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    both = F.kl_div(log_m, log_p, reduction="none", log_target=True)
    both = both + F.kl_div(log_m, log_q, reduction="none", log_target=True)
    return mean(both / 2, mask, axis, temperature)


@LOSSES.register("CE")
def cross_entropy(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """Cross-entropy with soft labels: -T² Σ p_teacher log p_student.

    Sum over classes, mean over positions. The gradient is that of `kd`; the value is larger by the
    teacher's entropy times T². Hinton, Vinyals & Dean 2015, section 2.
    """
    student, teacher, mask = prepare(student_logits, teacher_logits, mask, axis)
    log_q = log_softmax(student, temperature, axis)
    p = (teacher if temperature == 1 else teacher / temperature).softmax(axis)
    return mean(-(p * log_q), mask, axis, temperature)


@LOSSES.register("MSE")
def mse(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """Mean squared error between logits; mean over classes and positions.

    The temperature has no effect: (z / T)² T² = z². Ba & Caruana 2014, "Do Deep Nets Really Need to
    be Deep?", equation 1 (there: half the sum over classes).
    """
    student, teacher, mask = prepare(student_logits, teacher_logits, mask, axis)
    return mean((student - teacher).square(), mask, axis) / student.shape[axis]


@LOSSES.register("L1")
def l1(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """Mean absolute difference between logits; mean over classes and positions, whatever the temperature."""
    student, teacher, mask = prepare(student_logits, teacher_logits, mask, axis)
    return mean((student - teacher).abs(), mask, axis) / student.shape[axis]


@LOSSES.register("hard_label")
def hard_label(
    student_logits: Tensor,
    teacher_logits: Tensor,
    *,
    temperature: float = 1.0,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    axis: int = -1,
) -> Tensor:
    """Cross-entropy of the student with the teacher's most probable class; mean over positions.

    Neither side is softened, so the temperature has no effect. Touvron et al. 2021, "Training
    data-efficient image transformers", equation 3 (the teacher's half of it).
    """
    student, teacher, mask = prepare(student_logits, teacher_logits, mask, axis)
    chosen = teacher.argmax(axis, keepdim=True)
    return mean(-student.log_softmax(axis).gather(axis, chosen), mask, axis)
