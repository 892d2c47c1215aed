"""The pass over chunks of tokens: losses and gradients of hidden states, weight and bias in one forward."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from kdhooks.errors import UsageError
from kdhooks.torch.losses.chunked_heads import Head, add_weight_gradient, logits_into, product
from kdhooks.torch.losses.chunked_rows import Shaping, Terms, block_terms

_CHUNK_BYTES = {"cpu": 2**27}  # of one chunk's logits: wide enough for full speed, small beside a head's weight
_OTHER_CHUNK_BYTES = 2**28
_BLOCK_NUMBERS = 2**18  # of one block of rows on a CPU: 1 MB of each buffer, so that passes over it stay in cache


Spare = tuple[Tensor | None, Tensor | None]


class Rows(NamedTuple):
    """Per token: a valid label and whether it counts."""

    labels: Tensor
    counted: Tensor


class Given(NamedTuple):
    """What has no gradient: the teacher's hidden states and head, and the tokens."""

    hidden: Tensor
    head: Head
    rows: Rows


class Plan(NamedTuple):
    """How to compute: terms, what is done to both logits, tokens a chunk, and whether gradients are wanted."""

    terms: Terms
    student: Shaping
    teacher: Shaping
    chunk_size: int | None
    gradients: bool


class Chunked(torch.autograd.Function):
    """(hidden [P, D], weight [V, D], bias, Given, Plan) -> total, and the detached means of both terms."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, given: Given, plan: Plan) -> Any:
        """Losses now, gradients kept for the backward."""
        needed = [bool(plan.gradients and need) for need in ctx.needs_input_grad[:3]]
        kind = hidden.device.type
        dtype = _autocast_dtype(kind)
        with torch.autocast(kind, enabled=False):
            run = _Pass(hidden, Head(weight, bias), given, plan, needed, dtype)
            total, parts = run.losses()
        ctx.save_for_backward(*run.gradients, hidden, weight, bias, run.unit)
        ctx.dtypes = [None if one is None else one.dtype for one in (hidden, weight, bias)]
        ctx.mark_non_differentiable(*parts)
        ctx.set_materialize_grads(False)
        return (total, *parts)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor | None) -> Any:
        """The kept gradients times the total's slope; they are not used up, so `retain_graph` works."""
        slope = slopes[0]
        if slope is None:
            return None, None, None, None, None
        kept, inputs, unit = ctx.saved_tensors[:3], ctx.saved_tensors[3:6], ctx.saved_tensors[6]
        if torch.is_grad_enabled():  # create_graph=True
            kept = _NotTwice.apply(slope, *inputs, *kept)  # type: ignore[no-untyped-call]
        slope = slope * unit
        gradients = [
            None if one is None else (one * slope).to(dtype) for one, dtype in zip(kept, ctx.dtypes, strict=True)
        ]
        return (*gradients, None, None)


class _NotTwice(torch.autograd.Function):
    """Hands gradients through and refuses their own derivative."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, *inputs_and_kept: Tensor | None) -> Any:
        return tuple(None if one is None else one.clone() for one in inputs_and_kept[3:])

    @staticmethod
    def backward(ctx: Any, *slopes: Any) -> Any:
        raise UsageError(
            "chunked distillation has no second derivative: its gradients are computed in the forward. "
            "Compute the logits and use kdhooks.torch.losses.kd where you need one"
        )


class _Pass:
    """One run over all chunks.

    `gradients` are those of hidden, weight and bias in float32 or wider, or None, before they are multiplied with
    `unit`, a scalar: their weight in the mean over tokens, which costs nothing where the total's slope comes in anyway.
    """

    def __init__(
        self, hidden: Tensor, head: Head, given: Given, plan: Plan, needed: list[bool], dtype: torch.dtype | None
    ) -> None:
        self.plan, self.given, self.hidden = plan, given, hidden
        self.dtype, self.teacher_dtype = dtype or hidden.dtype, dtype or given.hidden.dtype
        self.wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        self.head = _cast(head, self.dtype)
        self.teacher_head = _cast(given.head, self.teacher_dtype)
        # products of gradients: fp16 has too few exponents for them, bf16 has enough
        self.gradient_dtype = self.wide if self.dtype == torch.float16 else self.dtype
        self.gradient_weight = self.head.weight.to(self.gradient_dtype) if needed[0] else self.head.weight
        shapes = (hidden.shape, head.weight.shape, head.weight.shape[:1])
        self.gradients = [
            hidden.new_zeros(shape, dtype=self.wide) if need else None
            for need, shape in zip(needed, shapes, strict=True)
        ]

        self.count = given.rows.counted.sum().clamp(min=1).to(self.wide)
        self.unit = plan.terms.unit / self.count

    def losses(self) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The total and the means of both terms."""
        terms = self.plan.terms
        sums = torch.zeros(2, dtype=self.wide, device=self.hidden.device)
        size = self._chunk_size()
        student = self.hidden.new_empty((size, len(self.head.weight)), dtype=self.wide)
        teacher = None if terms.divergence is None else student.new_empty((size, terms.shared))
        spare = self._spare(student, teacher)
        for begin in range(0, len(self.hidden), size):
            chunk = slice(begin, min(begin + size, len(self.hidden)))
            length = chunk.stop - begin
            sums += self._chunk(chunk, student[:length], None if teacher is None else teacher[:length], spare)
        means = sums / self.count
        total = sum(weight * mean for weight, mean in zip(terms.weights, means.unbind(), strict=True))
        return torch.as_tensor(total), (means[0].clone(), means[1].clone())

    def _spare(self, student: Tensor, teacher: Tensor | None) -> Spare:
        """What a block needs beside the logits: one buffer for each term that is computed."""
        step = self._block_size(student)
        of_labels = torch.empty_like(student[:step]) if self.plan.terms.weights[0] else None
        return of_labels, None if teacher is None else torch.empty_like(teacher[:step])

    def _block_size(self, student: Tensor) -> int:
        """Rows of a block: all of a chunk's, but on a CPU as many as its cache takes."""
        if student.device.type != "cpu":
            return len(student)
        return max(1, min(len(student), _BLOCK_NUMBERS // max(1, student.shape[1])))

    def _chunk(self, chunk: slice, student: Tensor, teacher: Tensor | None, spare: Spare) -> Tensor:
        """The sums of both terms over a chunk; adds to the gradients."""
        counted = self.given.rows.counted[chunk, None]
        hidden = self.hidden[chunk].where(counted, 0.0).to(self.dtype)
        logits_into(student, hidden, self.head)
        if teacher is not None:
            logits_into(teacher, self.given.hidden[chunk].where(counted, 0.0).to(self.teacher_dtype), self.teacher_head)
        values = student.new_zeros((2, len(student)))
        labels = self.given.rows.labels[chunk, None]
        step = self._block_size(student)
        for begin in range(0, len(student), step):
            block = slice(begin, begin + step)
            parts = self._block(student[block], None if teacher is None else teacher[block], labels[block], spare)
            for value, part in zip(values, parts, strict=True):
                if part is not None:
                    value[block] = part
        self._collect(chunk, student, hidden)
        return values.where(counted.t(), 0.0).sum(1)

    def _block(
        self, student: Tensor, teacher: Tensor | None, labels: Tensor, spare: Spare
    ) -> tuple[Tensor | None, Tensor | None]:
        """Both terms of a block's tokens; leaves the gradient in `student`."""
        plan, rows = self.plan, len(student)
        plan.student.apply(student)
        if teacher is not None:
            plan.teacher.apply(teacher)
        shaped = None if plan.student.cap is None else student.clone()
        of_labels, of_teacher = (None if one is None else one[:rows] for one in spare)
        parts = block_terms(plan.terms, student, teacher, labels, (of_labels, of_teacher))
        plan.student.pull_back(student, shaped)
        return parts

    def _collect(self, chunk: slice, gradient: Tensor, hidden: Tensor) -> None:
        """Add a chunk's gradient with respect to the logits [R, V] to those of hidden, weight and bias."""
        of_hidden, of_weight, of_bias = self.gradients
        counted = self.given.rows.counted[chunk]
        if of_bias is not None:
            of_bias += counted.to(self.wide) @ gradient
        gradient = gradient.to(self.gradient_dtype)
        if of_hidden is not None:
            slope = product(gradient, self.gradient_weight.t()).to(self.wide)
            of_hidden[chunk] = slope.where(counted[:, None], 0.0)
        if of_weight is not None:  # hidden states that don't count are zeros
            add_weight_gradient(of_weight, gradient, hidden.to(self.gradient_dtype))

    def _chunk_size(self) -> int:
        """Tokens of a chunk: as many as fit, in chunks of about one size."""
        tokens = max(1, len(self.hidden))
        size = self.plan.chunk_size
        if size is None:
            limit = _CHUNK_BYTES.get(self.hidden.device.type, _OTHER_CHUNK_BYTES)
            size = max(32, limit // (len(self.head.weight) * self.wide.itemsize))
        chunks = -(-tokens // min(size, tokens))
        return -(-tokens // chunks)


def _cast(head: Head, dtype: torch.dtype) -> Head:
    return Head(head.weight.to(dtype), None if head.bias is None else head.bias.to(dtype))


def _autocast_dtype(kind: str) -> torch.dtype | None:
    if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return None
