"""Distillation over a large vocabulary: cross-entropy and a divergence over chunks of tokens.

The loss is that of the logits ``hidden @ weightᵀ + bias`` of both heads, but the logits are never there
all at once: each chunk of tokens is computed, turned into its gradient, and forgotten. So the gradients
are computed in the forward, and no (tokens x vocabulary) buffer lives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdhooks.errors import ModelError, UsageError
from kdhooks.torch.losses.chunked_heads import Head, as_head
from kdhooks.torch.losses.chunked_pass import Chunked, Given, Plan, Rows
from kdhooks.torch.losses.chunked_rows import DIVERGENCES, Shaping, Terms
from kdhooks.torch.losses.table import LOSSES


class ChunkedLosses(NamedTuple):
    """The total, which has gradients, and its detached parts without their weights."""

    total: Tensor
    cross_entropy: Tensor
    divergence: Tensor


def chunked_distillation(
    hidden: Tensor,
    head: Any,
    teacher_hidden: Tensor,
    teacher_head: Any,
    *,
    target: Tensor | None = None,
    mask: Tensor | None = None,
    temperature: float = 1.0,
    loss_types: Sequence[str] = ("CE", "KL"),
    loss_weights: Sequence[float] = (0.5, 0.5),
    ignore_index: int = -100,
    vocabulary: str | None = None,
    logit_scale: float = 1.0,
    teacher_logit_scale: float = 1.0,
    softcap: float | None = None,
    teacher_softcap: float | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """w[0] CE(student, target) + w[1] T² D(teacher, student) without (tokens x vocabulary) buffers.

    Both terms are sums over classes and means over the tokens that count: those of `mask` whose label
    is not `ignore_index`. Gradients reach `hidden` and the student's weight and bias; they are computed
    in the forward, so a second derivative is refused. D is that of `kd`, `jsd` or `reverse_kl`.

    Args:
        hidden: the student's last hidden states [..., D]; for a causal model, already shifted against
            `target`.
        head: the student's head over V classes: `nn.Linear`, (weight [V, D], bias [V] or None), or a weight.
        teacher_hidden: the teacher's hidden states [..., D'] of the same tokens.
        teacher_head: the teacher's head over V' classes.
        target: labels [...], needed unless the weight of CE is 0.
        mask: tokens that count [...].
        temperature: T of the divergence.
        loss_types: ``CE``, then ``KL``, ``JSD`` or ``reverse_KL``.
        loss_weights: of both; what weighs 0 is not computed.
        ignore_index: the label of tokens that don't count, in either term.
        vocabulary: what to compare where V and V' differ: ``common`` the first min(V, V') classes of
            both; ``student`` the student's, which must be the fewer; ``teacher`` the teacher's, which
            must be the fewer. The others are cut off before the softmax of D; CE has all V classes.
        logit_scale: multiplies the student's logits.
        teacher_logit_scale: multiplies the teacher's logits.
        softcap: c of ``c tanh(z / c)`` on the student's scaled logits.
        teacher_softcap: the same of the teacher.
        chunk_size: tokens of one chunk; None takes as many as fit a fixed size of memory.

    Returns:
        The total, a scalar; 0 where no token counts.

    Raises:
        UsageError: an unknown loss, no target, vocabularies of different sizes without `vocabulary`.
        ModelError: shapes that don't fit, or a head that is more than a linear layer.

    Example:
        >>> import torch
        >>> head, teacher_head = torch.nn.Linear(8, 100), torch.nn.Linear(16, 100)
        >>> loss = chunked_distillation(
        ...     torch.randn(4, 8), head, torch.randn(4, 16), teacher_head, target=torch.tensor([1, 2, 3, -100])
        ... )
        >>> loss.backward()
    """
    criterion = ChunkedDistillationLoss(
        temperature=temperature,
        loss_types=loss_types,
        loss_weights=loss_weights,
        ignore_index=ignore_index,
        vocabulary=vocabulary,
        logit_scale=logit_scale,
        teacher_logit_scale=teacher_logit_scale,
        softcap=softcap,
        teacher_softcap=teacher_softcap,
        chunk_size=chunk_size,
    )
    return criterion(hidden, head, teacher_hidden, teacher_head, target=target, mask=mask)


class ChunkedDistillationLoss:
    """`chunked_distillation` with its options set once, for a loop of one's own.

    Args:
        options: those of `chunked_distillation`.

    Attributes:
        losses: the detached terms of the last call, by name, without their weights; reading a number of
            them is what waits for the device.

    Raises:
        UsageError: an unknown loss, or an option out of its range.

    Example:
        >>> import torch
        >>> criterion = ChunkedDistillationLoss(temperature=2.0, loss_types=("CE", "KL"), loss_weights=(0.1, 0.9))
        >>> head = torch.nn.Linear(8, 100)
        >>> hidden = torch.randn(4, 8)
        >>> loss = criterion(hidden, head, hidden, head, target=torch.tensor([1, 2, 3, 4]))
        >>> sorted(criterion.losses)
        ['CE', 'KL']
    """

    def __init__(
        self,
        *,
        temperature: float = 1.0,
        loss_types: Sequence[str] = ("CE", "KL"),
        loss_weights: Sequence[float] = (0.5, 0.5),
        ignore_index: int = -100,
        vocabulary: str | None = None,
        logit_scale: float = 1.0,
        teacher_logit_scale: float = 1.0,
        softcap: float | None = None,
        teacher_softcap: float | None = None,
        chunk_size: int | None = None,
    ) -> None:
        self.loss_types = _checked_types(loss_types)
        if len(loss_weights) != 2:
            raise UsageError(
                f"chunked distillation has 2 loss_weights, of CE and of the divergence, and not {len(loss_weights)}"
            )
        for name, value in (("temperature", temperature), ("softcap", softcap), ("teacher_softcap", teacher_softcap)):
            if value is not None and value <= 0:
                raise UsageError(f"the {name} must be above 0, and is {value}")
        if vocabulary not in (None, "student", "teacher", "common"):
            raise UsageError(f"vocabulary is 'student', 'teacher' or 'common', and not {vocabulary!r}")
        if chunk_size is not None and chunk_size < 1:
            raise UsageError(f"the chunk_size must be 1 or more, and is {chunk_size}")
        self.temperature, self.loss_weights = float(temperature), (float(loss_weights[0]), float(loss_weights[1]))
        self.ignore_index, self.vocabulary, self.chunk_size = ignore_index, vocabulary, chunk_size
        self.shaping = Shaping(logit_scale, softcap)
        self.teacher_shaping = Shaping(teacher_logit_scale, teacher_softcap)
        self.losses: dict[str, Tensor] = {}

    def __call__(
        self,
        hidden: Tensor,
        head: Any,
        teacher_hidden: Tensor,
        teacher_head: Any,
        *,
        target: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The weighted sum of both terms, a scalar; see `chunked_distillation`."""
        student, teacher = as_head(head, "student"), as_head(teacher_head, "teacher")
        _check_shapes(hidden, student, "student")
        _check_shapes(teacher_hidden, teacher, "teacher")
        if hidden.shape[:-1] != teacher_hidden.shape[:-1]:
            raise ModelError(
                f"the student has hidden states of tokens {list(hidden.shape[:-1])} "
                f"and the teacher of {list(teacher_hidden.shape[:-1])}"
            )
        shared = self._shared(len(student.weight), len(teacher.weight))
        teacher = Head(teacher.weight[:shared], None if teacher.bias is None else teacher.bias[:shared])
        rows = self._rows(hidden, target, mask)
        divergence = DIVERGENCES[self.loss_types[1]] if self.loss_weights[1] else None
        terms = Terms(divergence, self.temperature, self.loss_weights, shared)
        plan = Plan(terms, self.shaping, self.teacher_shaping, self.chunk_size, torch.is_grad_enabled())
        flat, teacher_flat = hidden.flatten(0, -2), teacher_hidden.detach().flatten(0, -2)
        constant = Head(teacher.weight.detach(), None if teacher.bias is None else teacher.bias.detach())
        given = Given(teacher_flat, constant, rows)
        found = ChunkedLosses(*Chunked.apply(flat, student.weight, student.bias, given, plan))  # type: ignore[no-untyped-call]
        parts = (found.cross_entropy, found.divergence)
        self.losses = {name: part for name, part, w in zip(self.loss_types, parts, self.loss_weights, strict=True) if w}
        return found.total

    def _shared(self, student: int, teacher: int) -> int:
        """How many of the first classes are compared."""
        if student == teacher or not self.loss_weights[1]:
            return min(student, teacher)
        if self.vocabulary is None:
            raise UsageError(
                f"the student has {student} classes and the teacher {teacher}; if the first ones are the same, say "
                "vocabulary='common' (or 'student', 'teacher') to compare those and cut off the others"
            )
        fewer = {"student": student, "teacher": teacher, "common": min(student, teacher)}[self.vocabulary]
        if fewer > min(student, teacher):
            raise UsageError(
                f"vocabulary={self.vocabulary!r} needs the {self.vocabulary} to have the fewer classes; "
                f"the student has {student} and the teacher {teacher}"
            )
        return fewer

    def _rows(self, hidden: Tensor, target: Tensor | None, mask: Tensor | None) -> Rows:
        """Labels and weights of the tokens, and how many count."""
        if target is None and self.loss_weights[0]:
            raise UsageError("the CE of chunked distillation needs target=; without labels say loss_weights=(0.0, 1.0)")
        counted = torch.ones(hidden.shape[:-1], dtype=torch.bool, device=hidden.device)
        for name, given in (("target", target), ("mask", mask)):
            if given is not None and given.shape != counted.shape:
                raise ModelError(f"the {name} has shape {list(given.shape)}; the tokens have {list(counted.shape)}")
        labels = torch.zeros(counted.shape, dtype=torch.int64, device=hidden.device)
        if target is not None:
            labels = target.to(hidden.device, torch.int64)
            counted = labels != self.ignore_index
        if mask is not None:
            counted = counted & mask.to(hidden.device, torch.bool)
        labels = labels.where(counted, 0)
        return Rows(labels.flatten(), counted.flatten())


def _checked_types(loss_types: Sequence[str]) -> tuple[str, str]:
    names = [LOSSES.name(name) or name for name in loss_types]
    if len(names) != 2 or names[0] != "CE" or names[1] not in DIVERGENCES:
        known = ", ".join(DIVERGENCES)
        raise UsageError(f"chunked distillation takes the loss_types CE and one of {known}, and not {list(loss_types)}")
    return names[0], names[1]


def _check_shapes(hidden: Tensor, head: Head, owner: str) -> None:
    if hidden.ndim < 2 or hidden.shape[-1] != head.weight.shape[1]:
        raise ModelError(
            f"the {owner}'s hidden states have shape {list(hidden.shape)} and its head's weight "
            f"{list(head.weight.shape)}; they must end with the same size"
        )
