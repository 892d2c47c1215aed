"""Masked generative distillation: the student rebuilds the teacher's whole map from a part of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kdhooks.errors import ModelError
from kdhooks.losses.options import check_convention, check_masking
from kdhooks.torch.losses.features import check_fit, full_precision
from kdhooks.torch.losses.modules import DrawingLossModule, channels_of, convolution
from kdhooks.torch.losses.table import on_features


@on_features("mgd")
class MGD(DrawingLossModule):
    """Masked generative distillation: ||t - G(M · align(s))||², G = conv3x3, ReLU, conv3x3.

    M keeps each place with probability 1 - ratio, drawn anew in every training step from a private
    generator; outside training the last step's would-be mask is used. Yang et al. 2022, "Masked
    Generative Distillation", equations 2 to 5.

    Args:
        student_shape: [N, C, H, W] of the student's map.
        teacher_shape: [N, C', H, W] of the teacher's; `align` is a 1x1 convolution where channels differ.
        ratio: the share that is masked, λ: the paper has 0.65 and 0.45 for detection, 0.15 for classifying.
        masked: ``space`` masks places for all channels, ``channels`` whole channels.
        convention: ``paper`` sums over the map, mean over the batch; ``common`` is the mean over
            everything.
        seed: of the private generators.

    Raises:
        UsageError: an option out of its range.
        ModelError: shapes that are not maps.

    Example:
        >>> import torch
        >>> loss = MGD((8, 16, 4, 4), (8, 32, 4, 4))
        >>> loss(torch.randn(8, 16, 4, 4), torch.randn(8, 32, 4, 4)).shape
        torch.Size([])
    """

    def __init__(
        self,
        student_shape: Sequence[int],
        teacher_shape: Sequence[int],
        *,
        ratio: float = 0.65,
        masked: str = "space",
        convention: str = "paper",
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        check_masking(ratio, masked)
        for shape in (student_shape, teacher_shape):
            if len(shape) != 4:
                raise ModelError(f"the loss 'mgd' needs maps [N, C, H, W]; a feature has shape {list(shape)}")
        self.paper = check_convention("mgd", convention)
        self.ratio, self.masked = ratio, masked
        inputs, outputs = channels_of("mgd", student_shape), channels_of("mgd", teacher_shape)
        self.align: nn.Module = nn.Identity() if inputs == outputs else convolution(inputs, outputs, 1)
        self.generation = nn.Sequential(convolution(outputs, outputs, 3), nn.ReLU(), convolution(outputs, outputs, 3))
        self.reset()

    def mask(self, feature: Tensor) -> Tensor:
        """This step's M for a map [N, C, H, W]: 1 where it is kept, of shape [N, 1, H, W] or [N, C, 1, 1]."""
        n, channels, height, width = feature.shape
        shape = (n, 1, height, width) if self.masked == "space" else (n, channels, 1, 1)
        drawn = torch.rand(shape, device=feature.device, generator=self._generator(feature.device))
        return (drawn >= self.ratio).to(feature.dtype)

    def _loss(self, student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
        student, teacher = self._features(student_feature, teacher_feature)
        same = student.ndim == teacher.ndim == 4 and student.shape[2:] == teacher.shape[2:]
        check_fit("mgd", student_feature, teacher_feature, same, "two maps [N, C, H, W] of one batch and space")
        aligned = self.align(student)
        rebuilt = self.generation(aligned * self.mask(aligned))
        self._advance()
        squared = (teacher - rebuilt).square()
        total: Tensor = squared.sum() / max(1, len(squared) if self.paper else squared.numel())
        return total

    def forward(self, student_feature: Tensor, teacher_feature: Tensor) -> Tensor:
        """The loss of two maps, a scalar."""
        return full_precision(self._loss, student_feature, teacher_feature)
