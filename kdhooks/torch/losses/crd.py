"""Contrastive representation distillation, with its memory of embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from kdhooks.errors import UsageError
from kdhooks.losses.options import check_convention, check_memory
from kdhooks.torch.losses.features import channel_axis, check_fit, check_same_batch, full_precision, unit
from kdhooks.torch.losses.modules import DrawingLossModule, channels_of, fill_uniform, linear
from kdhooks.torch.losses.table import on_features


@on_features("crd")
class CRD(DrawingLossModule):
    """Contrastive representation distillation: -log h(positive) - Σ log(1 - h(negative)), for both sides as anchors.

    h = e^{s·t / τ} / (e^{s·t / τ} + K / M) of unit embeddings, K negatives drawn with repetition from a
    memory of M rows of the other model's embeddings, never the anchor's own row. In training a step
    then writes its own embeddings. With `sample_ids` a sample keeps its row and its row moves by
    `momentum` (the paper's memory: M is the size of the dataset); without, rows are the most recent
    embeddings and the oldest are overwritten. Sum over negatives and both anchors, mean over the batch.
    Tian et al. 2020, "Contrastive Representation Distillation", equations 9, 18 and 19.

    Args:
        student_shape: of the student's feature, batch first; space and tokens are averaged.
        teacher_shape: of the teacher's.
        width: of the embeddings.
        samples: M, rows of the memory.
        negatives: K.
        temperature: τ.
        momentum: how much of an old row stays, with `sample_ids`.
        convention: ``paper`` as above; ``common`` is the authors' code, which divides e^{s·t / τ} by a
            constant that the first training step estimates as M times its mean, for each side.
        seed: of the private generators.

    Raises:
        UsageError: an option out of its range.
        ModelError: a shape without channels.

    Example:
        >>> import torch
        >>> loss = CRD((8, 16), (8, 32), samples=100, negatives=20)
        >>> loss(torch.randn(8, 16), torch.randn(8, 32), sample_ids=torch.arange(8)).shape
        torch.Size([])
    """

    student_memory: Tensor
    teacher_memory: Tensor
    log_constants: Tensor

    def __init__(
        self,
        student_shape: Sequence[int],
        teacher_shape: Sequence[int],
        *,
        width: int = 128,
        samples: int = 16384,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
        convention: str = "paper",
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        check_memory(samples, negatives, temperature, momentum)
        self.paper = check_convention("crd", convention)
        self.samples, self.negatives, self.temperature, self.momentum = samples, negatives, temperature, momentum
        self.student_embedding = linear(channels_of("crd", student_shape), width)
        self.teacher_embedding = linear(channels_of("crd", teacher_shape), width)
        for memory in ("student_memory", "teacher_memory"):
            self.register_buffer(memory, torch.empty(samples, width))
        self.register_buffer("log_constants", torch.empty(2))
        self.reset()

    def _reset_own(self, generator: torch.Generator) -> None:
        for memory in (self.student_memory, self.teacher_memory):
            fill_uniform(memory, 1.0, generator)
            memory.copy_(unit(memory, 1))
        self.log_constants.fill_(math.nan)  # NaN: not estimated yet

    def embed(self, student_feature: Tensor, teacher_feature: Tensor) -> tuple[Tensor, Tensor]:
        """Unit embeddings [N, width] of both features."""
        student, teacher = map(_pooled, self._features(student_feature, teacher_feature))
        return unit(self.student_embedding(student), 1), unit(self.teacher_embedding(teacher), 1)

    def draw(self, rows: Tensor) -> Tensor:
        """This step's negatives [N, K] for anchors with these rows of the memory [N]: rows that are not theirs."""
        shape = (len(rows), self.negatives)
        generator = self._generator(rows.device)
        drawn = torch.randint(self.samples - 1, shape, device=rows.device, generator=generator)
        return drawn + (drawn >= rows[:, None]).long()

    def rows(self, batch: int, sample_ids: Tensor | None, device: torch.device) -> Tensor:
        """The rows of the memory that the samples of this step have."""
        if sample_ids is not None:
            if list(sample_ids.shape) != [batch]:
                raise UsageError(f"'crd' needs {batch} sample_ids for its batch, and got {list(sample_ids.shape)}")
            return sample_ids.to(device, torch.int64)
        return (torch.arange(batch, device=device) + self.steps * batch) % self.samples

    def _loss(self, student_feature: Tensor, teacher_feature: Tensor, sample_ids: Tensor | None) -> Tensor:
        check_same_batch("crd", student_feature, teacher_feature)
        widths = [one.shape[channel_axis(one)] for one in (student_feature, teacher_feature)]
        fits = widths == [self.student_embedding.in_features, self.teacher_embedding.in_features]
        check_fit("crd", student_feature, teacher_feature, fits, "the shapes it was made for")
        student, teacher = self.embed(student_feature, teacher_feature)
        rows = self.rows(len(student), sample_ids, student.device)
        negatives = self.draw(rows)
        positive = (student * teacher).sum(1, keepdim=True)
        total = self._side(0, student, positive, self.teacher_memory, negatives)
        total = total + self._side(1, teacher, positive, self.student_memory, negatives)
        if self._advance():
            self._remember(rows, student.detach(), teacher.detach(), keep=sample_ids is not None)
        return total / max(1, len(student))

    def forward(self, student_feature: Tensor, teacher_feature: Tensor, *, sample_ids: Tensor | None = None) -> Tensor:
        """The loss of two features, a scalar; in training it also writes the memory.

        Args:
            student_feature: of the student.
            teacher_feature: of the teacher.
            sample_ids: [N], which sample of the dataset each is, from 0 to below `samples`.
        """
        return full_precision(self._loss, student_feature, teacher_feature, sample_ids=sample_ids)

    def _side(self, side: int, anchors: Tensor, positive: Tensor, memory: Tensor, negatives: Tensor) -> Tensor:
        """The sum of one side's terms, by log-sigmoids: h = sigmoid(s·t / τ - log(K / M))."""
        scores = torch.cat([positive, _products(anchors, memory, negatives)], 1) / self.temperature
        shift: Tensor | float = math.log(self.negatives / self.samples)
        if not self.paper:
            shift = shift + self._log_constant(side, scores)
        scores = scores - shift
        return -F.logsigmoid(scores[:, :1]).sum() - F.logsigmoid(-scores[:, 1:]).sum()

    @torch.no_grad()
    def _log_constant(self, side: int, scores: Tensor) -> Tensor:
        """The log Z of a side; what the first training step found stays."""
        known = self.log_constants[side]
        found = scores.logsumexp((0, 1)) - math.log(max(1, scores.numel())) + math.log(self.samples)
        constant = torch.where(known.isnan(), found, known)
        if self.training and scores.numel():
            self.log_constants[side].copy_(constant)
        return constant

    @torch.no_grad()
    def _remember(self, rows: Tensor, student: Tensor, teacher: Tensor, *, keep: bool) -> None:
        for memory, embeddings in ((self.student_memory, student), (self.teacher_memory, teacher)):
            if keep:
                embeddings = unit(self.momentum * memory[rows] + (1 - self.momentum) * embeddings, 1)
            memory.index_copy_(0, rows, embeddings)


def _products(anchors: Tensor, memory: Tensor, chosen: Tensor) -> Tensor:
    """[N, K] products of anchors [N, D] with chosen rows [N, K] of the memory [M, D].

    The memory changes after this step, so what the backward needs of it is a copy: of the chosen rows,
    or, where they are more than the memory has, of all of it.
    """
    if chosen.numel() < len(memory):
        return torch.bmm(memory[chosen], anchors.unsqueeze(2)).squeeze(2)
    return (anchors @ memory.clone().T).gather(1, chosen)


def _pooled(feature: Tensor) -> Tensor:
    """[N, C]: the mean over space or tokens."""
    if feature.ndim == 2:
        return feature
    return feature.flatten(2).mean(2) if feature.ndim >= 4 else feature.mean(1)
