"""Losses between the logits of a student and a teacher.

Shapes: both logits [N, C], [N, T, C] or [N, H, W, C]; `axis` says where else the classes are. A
*position* is what is left without the class axis: a row, a token, a pixel. `mask` and `target` have the
shape of the positions, `sample_weight` too or [N]. Every function returns a scalar: sum(weight * loss)
over the positions that count, divided by their number, or 0 where none counts.

Half-precision logits are computed on in float32: a softmax over many classes loses its tail in fewer
bits. Gradients of a softened distribution shrink as 1/T², so what is softened is multiplied by T²
(Hinton, Vinyals & Dean 2015, section 2), which keeps the balance of terms when T changes. T is a number
or a scalar tensor, which a schedule inside a `tf.function` computes.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from kdhooks_tf.losses.positions import classes, divergence, log_softmax, one_hot, prepare, softened, zero
from kdhooks_tf.losses.table import on_logits


@on_logits("KL", "kd")
def kd(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    target: Any = None,
    mask: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
) -> Any:
    """Knowledge distillation: T² KL(p_teacher || p_student), p = softmax(z / T).

    Sum over classes, mean over positions. Hinton, Vinyals & Dean 2015, "Distilling the Knowledge in a
    Neural Network", section 2.
    """
    student, teacher, counted = prepare(student_logits, teacher_logits, mask, axis, sample_weight)
    log_q, log_p = log_softmax(student, temperature), log_softmax(teacher, temperature)
    return counted.mean(divergence(log_p, log_q), temperature)


@on_logits("reverse_KL")
def reverse_kl(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    target: Any = None,
    mask: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
) -> Any:
    """Reverse KL: T² KL(p_student || p_teacher), which seeks modes instead of covering them.

    Sum over classes, mean over positions. Gu et al. 2024, "MiniLLM", equation 1.
    """
    student, teacher, counted = prepare(student_logits, teacher_logits, mask, axis, sample_weight)
    log_q, log_p = log_softmax(student, temperature), log_softmax(teacher, temperature)
    return counted.mean(divergence(log_q, log_p), temperature)


@on_logits("JSD")
def jsd(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    target: Any = None,
    mask: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
) -> Any:
    """Jensen-Shannon divergence: T² [KL(p || m) + KL(q || m)] / 2 with m = (p + q) / 2.

    Sum over classes, mean over positions; symmetric, at most T² log 2. Lin 1991, "Divergence Measures
    Based on the Shannon Entropy", equation 3.5 with equal weights.
    """
    student, teacher, counted = prepare(student_logits, teacher_logits, mask, axis, sample_weight)
    log_q, log_p = log_softmax(student, temperature), log_softmax(teacher, temperature)
    log_m = log_add(log_p, log_q) - math.log(2)
    return counted.mean((divergence(log_p, log_m) + divergence(log_q, log_m)) / 2, temperature)


@on_logits("CE")
def cross_entropy(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    target: Any = None,
    mask: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
) -> Any:
    """Cross-entropy with soft labels: -T² Σ p_teacher log p_student.

    Sum over classes, mean over positions. The gradient is that of `kd`; the value is larger by the
    teacher's entropy times T². Hinton, Vinyals & Dean 2015, section 2.
    """
    student, teacher, counted = prepare(student_logits, teacher_logits, mask, axis, sample_weight)
    p = tf.nn.softmax(softened(teacher, temperature))
    return counted.mean(-p * log_softmax(student, temperature), temperature)


@on_logits("MSE")
def mse(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    target: Any = None,
    mask: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
) -> Any:
    """Mean squared error between logits; mean over classes and positions.

    The temperature has no effect: (z / T)² T² = z². Ba & Caruana 2014, "Do Deep Nets Really Need to
    be Deep?", equation 1 (there: half the sum over classes).
    """
    student, teacher, counted = prepare(student_logits, teacher_logits, mask, axis, sample_weight)
    return counted.mean(tf.math.squared_difference(student, teacher)) / classes(student)


@on_logits("L1")
def l1(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    target: Any = None,
    mask: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
) -> Any:
    """Mean absolute difference between logits; mean over classes and positions, whatever the temperature."""
    student, teacher, counted = prepare(student_logits, teacher_logits, mask, axis, sample_weight)
    return counted.mean(tf.abs(student - teacher)) / classes(student)


@on_logits("hard_label")
def hard_label(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    target: Any = None,
    mask: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
) -> Any:
    """Cross-entropy of the student with the teacher's most probable class; mean over positions.

    Neither side is softened, so the temperature has no effect. Touvron et al. 2021, "Training
    data-efficient image transformers", equation 3 (the teacher's half of it).
    """
    student, teacher, counted = prepare(student_logits, teacher_logits, mask, axis, sample_weight)
    chosen = one_hot(tf.argmax(teacher, -1), student)
    return counted.mean(tf.where(chosen, -tf.nn.log_softmax(student), zero(student)))


def log_add(first: Any, second: Any) -> Any:
    """log(e^x + e^y); the gradients of equal numbers are halves, and minus infinity is log 0."""
    highest = tf.stop_gradient(tf.maximum(first, second))
    return highest + tf.math.log(tf.exp(first - highest) + tf.exp(second - highest))
