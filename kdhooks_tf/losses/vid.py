"""Variational information distillation: the student predicts the teacher's feature with a learned variance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kdhooks.losses import shapes
from kdhooks.losses.options import check_convention
from kdhooks_tf.losses.features import blanked, check_fit, pooled, samples
from kdhooks_tf.losses.modules import Drawing, Linear, LossModule, channels_of, variable
from kdhooks_tf.losses.positions import classes, shape_of
from kdhooks_tf.losses.table import on_features


@on_features("vid")
class VID(LossModule):
    """Variational information distillation: Σ [log σ_c + (t - μ(s))² / (2 σ_c²)].

    μ is three layers along the channels with ReLU between, the same at every position, and σ_c² =
    softplus(α_c) + eps one learned variance a channel. Maps of different space are average-pooled to the
    smaller. Ahn et al. 2019, "Variational Information Distillation for Knowledge Transfer", equations 5
    and 6.

    Args:
        student_shape: of the student's feature, batch first and channels last.
        teacher_shape: of the teacher's.
        hidden: width between the layers; None is the teacher's channels.
        variance: what σ² starts from.
        eps: what σ² never falls below.
        convention: ``paper`` sums over channels and positions, mean over the batch; ``common`` is the
            mean over everything of log σ² / 2 + (t - μ(s))² / (2 σ²), as in the implementations people
            compare with.
        seed: of the private numbers that fill the layers.

    Raises:
        UsageError: an unknown convention.
        ModelError: a shape without channels.

    Example:
        >>> import tensorflow as tf
        >>> loss = VID((8, 4, 4, 16), (8, 4, 4, 32))
        >>> loss(tf.random.normal((8, 4, 4, 16)), tf.random.normal((8, 4, 4, 32))).shape
        TensorShape([])
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
        self.regressor = [Linear(inputs, width), Linear(width, width), Linear(width, outputs)]
        self.raw_variance = variable((outputs,))
        self.reset()

    def _reset_own(self, drawing: Drawing) -> None:
        inverse = math.log(math.expm1(self.variance - self.eps))  # of softplus
        self.raw_variance.assign(tf.fill(self.raw_variance.shape, tf.constant(inverse, self.raw_variance.dtype)))

    def __call__(
        self,
        student_feature: Any,
        teacher_feature: Any,
        *,
        training: bool = True,
        mask: Any = None,
        sample_weight: Any = None,
    ) -> Any:
        """The loss of two features, a scalar.

        Args:
            student_feature: of the shape it was made for.
            teacher_feature: of the shape it was made for.
            training: makes no difference here.
            mask: positions that count.
            sample_weight: [N] or of the positions.
        """
        return self._call(student_feature, teacher_feature, training, mask=mask, sample_weight=sample_weight)

    def _loss(self, student: Any, teacher: Any, training: bool, *, mask: Any, sample_weight: Any) -> Any:
        ours, theirs = _smaller_space(student, teacher)
        ends = [shape_of(ours), shape_of(theirs)]
        made = [self.regressor[0].kernel.shape[0], self.raw_variance.shape[0]]
        good = shapes.fits([*ends[0][:-1], *made], [*ends[1][:-1], ends[0][-1], ends[1][-1]])
        check_fit("vid", student, teacher, good, "the shapes it was made for")
        ours, theirs, counted = blanked(ours, theirs, mask, sample_weight)
        hidden = tf.nn.relu(self.regressor[1](tf.nn.relu(self.regressor[0](ours))))
        variance = tf.nn.softplus(self.raw_variance.read_value()) + self.eps
        squared = tf.math.squared_difference(theirs, self.regressor[2](hidden))
        cost = (tf.math.log(variance) + squared / variance) / 2
        if not self.paper:
            return counted.mean(cost) / classes(cost)
        values = tf.reduce_sum(cost, -1)
        return counted.total(values) / samples(values, counted)


def _smaller_space(student: Any, teacher: Any) -> tuple[Any, Any]:
    ours, theirs = shape_of(student)[1:3], shape_of(teacher)[1:3]
    if len(student.shape) != 4 or len(teacher.shape) != 4 or shapes.fits(ours, theirs):
        return student, teacher
    height, width = ([size for size in sizes if size is not None] for sizes in zip(ours, theirs, strict=True))
    space = (min(height, default=0), min(width, default=0))
    return pooled(student, space, tf.reduce_mean), pooled(teacher, space, tf.reduce_mean)
