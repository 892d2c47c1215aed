"""Losses between logits that need the labels.

Shapes are those of `kdhooks_tf.losses.logits`; `target` holds class indices in the shape of the
positions, and positions with a negative label (-100) don't count. No logarithm of a probability is
taken that could have rounded to 0: all of them come from a log-softmax.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from kdhooks.losses.options import check_convention, check_label_share, check_margin
from kdhooks_tf.losses.positions import classes, divergence, log_softmax, prepare_labelled, softened, tiny, zero
from kdhooks_tf.losses.table import on_logits


@on_logits("dkd")
def dkd(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    target: Any = None,
    mask: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> Any:
    """Decoupled knowledge distillation: T² [alpha KL(b_T || b_S) + beta KL(p̂_T || p̂_S)].

    b = [p_target, 1 - p_target] is the target's own share, p̂ the distribution over the other classes
    alone. Sum over classes, mean over positions. ``alpha=1`` with beta = 1 - p_target of the teacher
    would be `kd`. Zhao et al. 2022, "Decoupled Knowledge Distillation", equations 4 to 7.

    Raises:
        UsageError: there is no target.
        ModelError: shapes that don't fit, or fewer than two classes.
    """
    student, teacher, is_label, counted = prepare_labelled(
        "dkd", student_logits, teacher_logits, target, mask, axis, sample_weight
    )

    def decoupled(logits: Any) -> tuple[Any, Any]:
        logits = softened(logits, temperature)
        of_label = tf.reduce_sum(tf.where(is_label, logits, zero(logits)), -1, keepdims=True)
        others = tf.where(is_label, tf.constant(-math.inf, logits.dtype), logits)
        # the two shares as a softmax over two logits, so that neither is 1 minus a rounded number
        both = tf.concat([of_label, tf.reduce_logsumexp(others, -1, keepdims=True)], -1)
        return tf.nn.log_softmax(both), tf.where(is_label, zero(logits), tf.nn.log_softmax(others))

    (student_share, student_others), (teacher_share, teacher_others) = decoupled(student), decoupled(teacher)
    share, rest = divergence(teacher_share, student_share), divergence(teacher_others, student_others)
    return alpha * counted.mean(share, temperature) + beta * counted.mean(rest, temperature)


@on_logits("teacher_free")
def teacher_free(
    student_logits: Any,
    teacher_logits: Any = None,
    *,
    temperature: Any = 1.0,
    target: Any = None,
    mask: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
    a: float = 0.99,
    convention: str = "paper",
) -> Any:
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
        sample_weight: of the positions.
        a: the label's probability, above 1 / C and below 1.
        convention: ``paper`` as above; ``common`` is the authors' code: the probabilities themselves
            are softened, softmax(u / T), the student is not, and there is no T².

    Raises:
        UsageError: there is no target, or `a` is not between 0 and 1.
        ModelError: shapes that don't fit, or fewer than two classes.
    """
    check_label_share(a)
    paper = check_convention("teacher_free", convention)
    student, _, is_label, counted = prepare_labelled(
        "teacher_free", student_logits, student_logits, target, mask, axis, sample_weight
    )
    own, other = tf.constant(a, student.dtype), (1 - a) / (classes(student) - 1)
    if paper:
        own, other = tf.math.log(own), tf.math.log(other)
    virtual = log_softmax(tf.where(is_label, own, other), temperature)
    softening = temperature if paper else 1.0
    return counted.mean(divergence(virtual, log_softmax(student, softening)), softening)


@on_logits("mft")
def mft(
    student_logits: Any,
    teacher_logits: Any,
    *,
    temperature: Any = 1.0,
    target: Any = None,
    mask: Any = None,
    axis: int = -1,
    sample_weight: Any = None,
    tau: float = 0.2,
    correct_all: bool = True,
) -> Any:
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
        sample_weight: of the positions.
        tau: the margin, from 0 to 1.
        correct_all: also raise labels that the teacher has right.

    Raises:
        UsageError: there is no target, or `tau` is not from 0 to 1.
        ModelError: shapes that don't fit, or fewer than two classes.
    """
    check_margin(tau)
    student, teacher, is_label, counted = prepare_labelled(
        "mft", student_logits, teacher_logits, target, mask, axis, sample_weight
    )
    p = tf.exp(log_softmax(teacher, temperature))
    nothing = zero(p)
    of_label = tf.reduce_sum(tf.where(is_label, p, nothing), -1, keepdims=True)
    first = tf.one_hot(tf.argmax(p, -1), tf.shape(p)[-1], True, False, dtype=tf.bool)
    right = tf.reduce_any(tf.logical_and(is_label, first), -1, keepdims=True)
    lead = tf.reduce_max(p, -1, keepdims=True) - of_label
    room = tf.maximum(1 - of_label, max(tau, tiny(p.dtype)))
    raised = tau / room if correct_all else tf.zeros_like(room)
    share = tf.where(right, raised, (lead + tau) / (1 + lead))
    corrected = p * (1 - share) + tf.where(is_label, share, nothing)
    distance = tf.math.xlogy(corrected, corrected) - corrected * log_softmax(student, temperature)
    return counted.mean(distance, temperature)
