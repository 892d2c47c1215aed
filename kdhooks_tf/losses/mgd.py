"""Masked generative distillation: the student rebuilds the teacher's whole map from a part of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kdhooks.errors import ModelError
from kdhooks.losses import shapes
from kdhooks.losses.options import check_convention, check_masking
from kdhooks_tf.losses.features import blanked_samples, check_fit
from kdhooks_tf.losses.modules import GENERATOR, Convolution, DrawingLossModule, channels_of
from kdhooks_tf.losses.positions import shape_of, size
from kdhooks_tf.losses.table import on_features

_FINE = 2**24  # steps of the share that is masked


@on_features("mgd")
class MGD(DrawingLossModule):
    """Masked generative distillation: ||t - G(M · align(s))||², G = conv3x3, ReLU, conv3x3.

    M keeps each place with probability 1 - ratio, drawn anew in every training step from private
    numbers; outside training the last step's would-be mask is used. Yang et al. 2022, "Masked
    Generative Distillation", equations 2 to 5.

    Args:
        student_shape: [N, H, W, C] of the student's map.
        teacher_shape: [N, H, W, C'] of the teacher's; `align` is a 1x1 convolution where channels differ.
        ratio: the share that is masked, λ: the paper has 0.65 and 0.45 for detection, 0.15 for classifying.
        masked: ``space`` masks places for all channels, ``channels`` whole channels.
        convention: ``paper`` sums over the map, mean over the batch; ``common`` is the mean over
            everything.
        seed: of the private numbers.

    Raises:
        UsageError: an option out of its range.
        ModelError: shapes that are not maps.

    Example:
        >>> import tensorflow as tf
        >>> loss = MGD((8, 4, 4, 16), (8, 4, 4, 32))
        >>> loss(tf.random.normal((8, 4, 4, 16)), tf.random.normal((8, 4, 4, 32))).shape
        TensorShape([])
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
                raise ModelError(f"the loss 'mgd' needs maps [N, H, W, C]; a feature has shape {list(shape)}")
        self.paper = check_convention("mgd", convention)
        self.ratio, self.masked = ratio, masked
        inputs, outputs = channels_of("mgd", student_shape), channels_of("mgd", teacher_shape)
        self.align = None if inputs == outputs else Convolution(inputs, outputs, 1)
        self.generation = [Convolution(outputs, outputs, 3), Convolution(outputs, outputs, 3)]
        self.reset()

    def mask(self, feature: Any) -> Any:
        """This step's M for a map [N, H, W, C]: 1 where it is kept, of shape [N, H, W, 1] or [N, 1, 1, C]."""
        n, height, width, channels = tf.unstack(tf.shape(feature))
        shape = [n, height, width, 1] if self.masked == "space" else [n, 1, 1, channels]
        # whole numbers, of which XLA draws the same as eager calls do; it doesn't of fractions
        drawn = tf.random.stateless_uniform(shape, self.step_seed(), 0, _FINE, tf.int32, GENERATOR)
        return tf.cast(drawn >= round(self.ratio * _FINE), feature.dtype)

    def __call__(
        self, student_feature: Any, teacher_feature: Any, *, training: bool = True, sample_weight: Any = None
    ) -> Any:
        """The loss of two maps, a scalar.

        Args:
            student_feature: of the student.
            teacher_feature: of the teacher.
            training: whether this is a training step, after which another mask is drawn.
            sample_weight: [N].
        """
        return self._call(student_feature, teacher_feature, training, sample_weight=sample_weight)

    def _loss(self, student: Any, teacher: Any, training: bool, *, sample_weight: Any) -> Any:
        same = len(student.shape) == len(teacher.shape) == 4
        same = same and shapes.fits(shape_of(student)[:3], shape_of(teacher)[:3])
        check_fit("mgd", student, teacher, same, "two maps [N, H, W, C] of one batch and space")
        student, teacher, counted = blanked_samples(student, teacher, sample_weight)
        aligned = student if self.align is None else self.align(student)
        rebuilt = self.generation[1](tf.nn.relu(self.generation[0](aligned * self.mask(aligned))))
        if training:
            self.steps.assign_add(1)
        squared = tf.math.squared_difference(teacher, rebuilt)
        values = tf.reduce_sum(squared, (1, 2, 3))
        return counted.total(values) / (counted.number(values) if self.paper else size(squared))
