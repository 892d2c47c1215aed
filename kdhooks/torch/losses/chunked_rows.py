"""One block of rows of a chunk: the terms of its tokens, and their gradient with respect to the logits.

Logits come and gradients go in the same buffers [rows, vocabulary], float32 or wider, beside two that all blocks share:
blocks are small enough for a CPU's cache, where a pass over them costs a tenth of one over memory, and nothing is
allocated for them. Softmaxes rather than exponentials, since torch's own are several times faster than `exp` on some
CPUs; the log-sum-exp that a term needs is read off the largest probability, which is at least 1 / vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Divergence = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(student, teacher, spare), logits [R, V] and a buffer of that shape -> values [R]; the slope is left in `student`."""


@dataclass(frozen=True)
class Shaping:
    """What happens to the logits of a head: ``cap * tanh(scale * z / cap)``; no cap where `cap` is None."""

    scale: float = 1.0
    cap: float | None = None

    def apply(self, logits: Tensor) -> None:
        """Shape logits in place."""
        if self.cap is None:
            if self.scale != 1:
                logits.mul_(self.scale)
        else:
            logits.mul_(self.scale / self.cap).tanh_().mul_(self.cap)

    def pull_back(self, gradient: Tensor, shaped: Tensor | None) -> None:
        """Multiply a gradient with the slope at shaped logits, in place; they are used up, and needed with a cap."""
        if self.cap is not None and shaped is not None:
            gradient.addcmul_(gradient, shaped.div_(self.cap).square_(), value=-1)
        if self.scale != 1:
            gradient.mul_(self.scale)


@dataclass(frozen=True)
class Terms:
    """What is computed of each token.

    Attributes:
        divergence: `forward_kl`, `reverse_kl` or `jensen_shannon`, or None for no term against the teacher.
        temperature: T of the divergence.
        weights: of the cross-entropy, which 0 leaves out, and of the divergence.
        shared: how many classes, from the first, student and teacher have in common.
    """

    divergence: Divergence | None
    temperature: float
    weights: tuple[float, float]
    shared: int

    @property
    def slopes(self) -> tuple[float, float]:
        """What the slopes q - y of the cross-entropy and q - p of the divergence weigh in a token's gradient."""
        return self.weights[0], self.weights[1] * self.temperature  # T² of the loss, 1 / T of the softening

    @property
    def unit(self) -> float:
        """What a block's gradient has to be multiplied with: the larger of both slopes."""
        return max(self.slopes, key=abs)


def block_terms(
    terms: Terms, student: Tensor, teacher: Tensor | None, labels: Tensor, spare: tuple[Tensor | None, Tensor | None]
) -> tuple[Tensor | None, Tensor | None]:
    """The cross-entropies and divergences of a block; the gradient of their weighted sum is left in `student`.

    Args:
        terms: what to compute.
        student: shaped logits [R, V]; turned into the gradient of each token's terms, over `Terms.unit`.
        teacher: shaped logits [R, shared]; used up.
        labels: [R, 1], valid classes also where they don't count.
        spare: buffers [R, V] for the cross-entropy and [R, shared] for the divergence.

    Returns:
        Cross-entropies [R] and T² times the divergences [R]; None for a term that is not computed.
    """
    entropies = divergences = None
    of_labels, of_teacher = spare
    if of_labels is not None:
        top = student.amax(1, keepdim=True)
        q = torch.softmax(student, 1, out=of_labels)
        entropies = (top - q.amax(1, keepdim=True).log() - student.gather(1, labels)).squeeze(1)
        q.scatter_add_(1, labels, q.new_full((1, 1), -1.0).expand_as(labels))
    if terms.divergence is not None and teacher is not None and of_teacher is not None:
        shared, temperature = student[:, : terms.shared], terms.temperature
        for logits in (shared, teacher):
            if temperature != 1:
                logits.mul_(1 / temperature)
        divergences = terms.divergence(shared, teacher, of_teacher).mul_(temperature**2)
        student[:, terms.shared :].zero_()
        if of_labels is not None:
            _add_weighted(terms, student, of_labels)
    elif of_labels is not None:
        student.copy_(of_labels)
    else:
        student.zero_()
    return entropies, divergences


def _add_weighted(terms: Terms, student: Tensor, of_labels: Tensor) -> None:
    """The sum of both slopes in `student`, the larger with the weight 1, so that none can overflow."""
    of_entropy, of_divergence = terms.slopes
    if terms.unit == of_entropy:
        torch.add(of_labels, student, alpha=of_divergence / of_entropy, out=student)
    else:
        student.add_(of_labels, alpha=of_entropy / of_divergence)


def forward_kl(student: Tensor, teacher: Tensor, spare: Tensor) -> Tensor:
    """KL(p_teacher || p_student) and its slope q - p."""
    p = torch.softmax(teacher, 1, out=spare)
    apart = teacher.amax(1, keepdim=True) - student.amax(1, keepdim=True)
    value = teacher.sub_(student).sub_(apart).mul_(p).sum(1)
    q = torch.softmax(student, 1, out=teacher)
    torch.sub(q, p, out=student)
    return value.add_(p.amax(1).log_()).sub_(q.amax(1).log_())


def reverse_kl(student: Tensor, teacher: Tensor, spare: Tensor) -> Tensor:
    """KL(p_student || p_teacher) and its slope q (log q/p - value)."""
    log_q = torch.log_softmax(student, 1, out=spare)
    log_p = torch.log_softmax(teacher, 1, out=student)
    difference = torch.sub(log_q, log_p, out=teacher)
    q = log_q.exp_()
    value = torch.mul(q, difference, out=student).sum(1)
    torch.mul(difference.sub_(value.unsqueeze(1)), q, out=student)
    return value


def jensen_shannon(student: Tensor, teacher: Tensor, spare: Tensor) -> Tensor:
    """Jensen-Shannon divergence and its slope."""
    log_q = torch.log_softmax(student, 1, out=spare)
    log_p = torch.log_softmax(teacher, 1, out=student)
    middle = torch.logaddexp(log_q, log_p, out=teacher).sub_(math.log(2))
    against_p = log_p.exp().mul_(log_p.sub_(middle)).sum(1)
    difference = torch.sub(log_q, middle, out=student)
    q = log_q.exp_()
    against_q = torch.mul(q, difference, out=teacher).sum(1)
    difference.sub_(against_q.unsqueeze(1)).mul_(q).div_(2)
    return (against_p + against_q) / 2


DIVERGENCES: dict[str, Divergence] = {"KL": forward_kl, "JSD": jensen_shannon, "reverse_KL": reverse_kl}
"""By the names of `kdhooks.torch.losses.LOSSES`."""
