"""Variational information distillation: the student predicts the teacher's feature with a learned variance."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks.losses.options import check_convention
from kdhooks.torch.losses.features import channel_axis, check_fit, full_precision
from kdhooks.torch.losses.modules import LossModule, channels_of, linear
from kdhooks.torch.losses.positions import position_mask
from kdhooks.torch.losses.table import on_features


@on_features("vid")
class VID(LossModule):
    """Variational information distillation: Σ [log σ_c + (t - μ(s))² / (2 σ_c²)].

    μ is three layers along the channels with ReLU between, the same at every position, and σ_c² =
    softplus(α_c) + eps one learned variance a channel. Maps of different space are average-pooled to the
    smaller. Ahn et al. 2019, "Variational Information Distillation for Knowledge Transfer", equations 5
    and 6.

    Args:
        student_shape: of the student's feature, batch first.
        teacher_shape: of the teacher's.
        hidden: width between the layers; None is the teacher's channels.
        variance: what σ² starts from.
        eps: what σ² never falls below.
        convention: ``paper`` sums over channels and positions, mean over the batch; ``common`` is the
            mean over everything of log σ² / 2 + (t - μ(s))² / (2 σ²), as in the implementations people
            compare with.
        seed: of the private generator that fills the layers.

    Raises:
        UsageError: an unknown convention.
        ModelError: a shape without channels.

    Example:
        >>> import torch
        >>> loss = VID((8, 16, 4, 4), (8, 32, 4, 4))
        >>> loss(torch.randn(8, 16, 4, 4), torch.randn(8, 32, 4, 4)).shape
        torch.Size([])
    """

    def __init__(
        self,
        student_shape: Sequence[int],
        teacher_shape: Sequence[int],
        *,
        hidden: int | None = None,
        variance: float = 5.0,
        eps: float = 1e-5,
        convention: str = "paper",
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        self.paper = check_convention("vid", convention)
        self.variance, self.eps = variance, eps
        inputs, outputs = channels_of("vid", student_shape), channels_of("vid", teacher_shape)
        width = hidden or outputs
        self.regressor = nn.Sequential(
            linear(inputs, width), nn.ReLU(), linear(width, width), nn.ReLU(), linear(width, outputs)
        )
        self.raw_variance = nn.Parameter(torch.empty(outputs))
        self.reset()

    def _reset_own(self, generator: torch.Generator) -> None:
        self.raw_variance.fill_(math.log(math.expm1(self.variance - self.eps)))  # the inverse of softplus

    def _loss(self, student_feature: Tensor, teacher_feature: Tensor, mask: Tensor | None = None) -> Tensor:
        student, teacher = self._features(student_feature, teacher_feature)
        student, teacher = _smaller_space(student, teacher)
        mean = self.regressor(student.movedim(channel_axis(student), -1))
        teacher = teacher.movedim(channel_axis(teacher), -1)
        check_fit("vid", student_feature, teacher_feature, mean.shape == teacher.shape, "the shapes it was made for")
        variance = F.softplus(self.raw_variance) + self.eps
        cost = (variance.log() + (teacher - mean).square() / variance) / 2
        if mask is None:
            total: Tensor = cost.sum() / max(1, len(cost) if self.paper else cost.numel())
            return total
        counted = position_mask(cost, mask, -1, "features", "channels")
        samples = counted.flatten(1).any(1).sum() if self.paper else counted.sum() * cost.shape[-1]
        masked: Tensor = cost.where(counted, 0.0).sum() / samples.clamp(min=1)
        return masked

    def forward(self, student_feature: Tensor, teacher_feature: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """The loss of two features, a scalar.

        Args:
            student_feature: of the shape it was made for.
            teacher_feature: of the shape it was made for.
            mask: positions that count.
        """
        return full_precision(self._loss, student_feature, teacher_feature, mask=mask)


def _smaller_space(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    if student.ndim != 4 or teacher.ndim != 4 or student.shape[2:] == teacher.shape[2:]:
        return student, teacher
    space = (min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3]))
    return F.adaptive_avg_pool2d(student, space), F.adaptive_avg_pool2d(teacher, space)
