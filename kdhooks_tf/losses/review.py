"""Knowledge review: deep student features are fused into shallow ones, and each is held to the teacher's level."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kdhooks.errors import ModelError
from kdhooks.losses import shapes
from kdhooks_tf.losses.features import check_fit, pooled
from kdhooks_tf.losses.modules import Convolution, Drawing, LossModule, constant, parameter_dtype, variable
from kdhooks_tf.losses.positions import shape_of, size
from kdhooks_tf.losses.table import on_features


class BatchNorm(tf.Module):  # type: ignore[misc]
    """Batch normalisation that uses its moving statistics where a batch has one number a channel."""

    momentum, eps = 0.1, 1e-5

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma, self.beta = variable((channels,)), variable((channels,))
        self.mean, self.variance = (constant((channels,), parameter_dtype()) for _ in range(2))

    def fill(self, drawing: Drawing) -> None:
        """Constants, nothing is drawn."""
        for one, number in ((self.gamma, 1.0), (self.beta, 0.0), (self.mean, 0.0), (self.variance, 1.0)):
            one.assign(tf.fill(one.shape, tf.constant(number, one.dtype)))

    def __call__(self, x: Any, training: bool) -> Any:
        """Normalised maps of the same shape."""
        mean, variance = self.mean.read_value(), self.variance.read_value()
        if training:
            mean, variance = self._of_batch(x, mean, variance)
        return (x - mean) * tf.math.rsqrt(variance + self.eps) * self.gamma + self.beta

    def _of_batch(self, x: Any, mean: Any, variance: Any) -> tuple[Any, Any]:
        number = tf.cast(tf.reduce_prod(tf.shape(x)[:3]), x.dtype)
        several = number > 1
        own_mean, own_variance = tf.nn.moments(x, [0, 1, 2])
        unbiased = own_variance * number / tf.maximum(number - 1, 1)
        for held, old, new in ((self.mean, mean, own_mean), (self.variance, variance, unbiased)):
            moved = old + self.momentum * (tf.stop_gradient(new) - old)
            held.assign(tf.where(several, moved, old))
        return tf.where(several, own_mean, mean), tf.where(several, own_variance, variance)


class AttentionFusion(tf.Module):  # type: ignore[misc]
    """Attention-based fusion (ABF): a level's map, mixed with what deeper levels handed up.

    Args:
        inputs: channels of the student's map.
        width: channels that go from level to level.
        outputs: channels of the teacher's map.
        fuse: whether a deeper level hands something up.
    """

    def __init__(self, inputs: int, width: int, outputs: int, *, fuse: bool) -> None:
        super().__init__()
        self.enter, self.enter_norm = Convolution(inputs, width, 1, bias=False), BatchNorm(width)
        self.leave, self.leave_norm = Convolution(width, outputs, 3, bias=False), BatchNorm(outputs)
        self.attention = Convolution(2 * width, 2, 1) if fuse else None

    def __call__(self, feature: Any, deeper: Any, space: Sequence[int | None], training: bool) -> tuple[Any, Any]:
        """The map to compare, in the teacher's space, and the map for the level above."""
        x = self.enter_norm(self.enter(feature), training)
        if self.attention is not None and deeper is not None:
            deeper = _nearest(deeper, shape_of(x)[1:3])
            share = tf.sigmoid(self.attention(tf.concat([x, deeper], -1)))
            x = x * share[..., :1] + deeper * share[..., 1:]
        x = _nearest(x, space)
        return self.leave_norm(self.leave(x), training), x


@on_features("review")
class ReviewKD(LossModule):
    """Knowledge review: Σ over levels of the hierarchical context loss between fused student maps and the teacher's.

    From the deepest level up, each student map is fused with what the deeper ones handed up
    (`AttentionFusion`) and compared at its own space and pooled to 4, 2 and 1, with weights 1, ½, ¼, ⅛
    that are divided by their sum; each comparison is a mean squared error. Chen et al. 2021,
    "Distilling Knowledge via Knowledge Review", section 3.

    Args:
        student_shape: one shape [N, H, W, C], or a list of them from shallow to deep; rows [N, D] are maps
            of one pixel.
        teacher_shape: as many of the teacher.
        width: channels that go from level to level; None is the deepest student map's, at most 512.
        seed: of the private numbers that fill the layers.

    Raises:
        ModelError: lists of different lengths, or shapes that are not maps.

    Example:
        >>> import tensorflow as tf
        >>> maps = [(8, 8, 8, 4), (8, 4, 4, 8)]
        >>> loss = ReviewKD(maps, maps)
        >>> features = [tf.random.normal(shape) for shape in maps]
        >>> loss(features, features).shape
        TensorShape([])
    """

    def __init__(self, student_shape: Any, teacher_shape: Any, *, width: int | None = None, seed: int = 0) -> None:
        super().__init__(seed)
        student, teacher = _levels(student_shape), _levels(teacher_shape)
        if len(student) != len(teacher):
            raise ModelError(f"the loss 'review' has {len(student)} student maps for {len(teacher)} of the teacher")
        width = width or min(512, student[-1][-1])
        deepest = len(student) - 1
        self.fusions = [
            AttentionFusion(own[-1], width, theirs[-1], fuse=level != deepest)
            for level, (own, theirs) in enumerate(zip(student, teacher, strict=True))
        ]
        self.reset()

    def _loss(self, student: Any, teacher: Any, training: bool) -> Any:
        if not isinstance(student, list):
            student, teacher = [student], [teacher]
        if len(student) != len(self.fusions):
            raise ModelError(f"the loss 'review' was made for {len(self.fusions)} maps, and got {len(student)}")
        student, teacher = ([_as_map(feature) for feature in one] for one in (student, teacher))
        deeper: Any = None
        total = tf.zeros((), student[0].dtype)
        for fusion, own, theirs in zip(reversed(self.fusions), reversed(student), reversed(teacher), strict=True):
            made = [fusion.enter.kernel.shape[2], fusion.leave.kernel.shape[3]]
            good = shapes.fits([shape_of(own)[-1], shape_of(theirs)[-1]], made)
            good = good and shapes.fits(shape_of(own)[:1], shape_of(theirs)[:1])
            check_fit("review", own, theirs, good, "the shapes it was made for")
            compared, deeper = fusion(own, deeper, shape_of(theirs)[1:3], training)
            total += hierarchical_context(compared, theirs)
        return total


def hierarchical_context(student: Any, teacher: Any) -> Any:
    """The hierarchical context loss (HCL) of two maps [N, H, W, C] of one shape; mean over everything."""
    total, share, shares = _mse(student, teacher), 1.0, 1.0
    for edge in (4, 2, 1):
        if edge >= (shape_of(student)[1] or 0):
            continue
        share /= 2
        total += share * _mse(*(pooled(one, (edge, edge), tf.reduce_mean) for one in (student, teacher)))
        shares += share
    return total / shares


def _mse(student: Any, teacher: Any) -> Any:
    return tf.reduce_sum(tf.math.squared_difference(student, teacher)) / size(student)


def _nearest(x: Any, space: Sequence[int | None]) -> Any:
    """A map in another space: pixel i is that at floor(i * old / new)."""
    for axis, new in ((1, space[0]), (2, space[1])):
        old = shape_of(x)[axis]
        if old is None or new is None:
            raise ModelError(f"the loss 'review' needs maps whose height and width are known; one is {shape_of(x)}")
        if old != new:
            x = tf.gather(x, [index * old // new for index in range(new)], axis=axis)
    return x


def _levels(given: Any) -> list[tuple[int, ...]]:
    several = list(given) if isinstance(given[0], (list, tuple)) else [given]
    found = [(shape[0], 1, 1, shape[1]) if len(shape) == 2 else tuple(shape) for shape in several]
    for shape in found:
        if len(shape) != 4:
            raise ModelError(f"the loss 'review' needs maps [N, H, W, C] or rows [N, D]; a shape is {list(shape)}")
    return found


def _as_map(feature: Any) -> Any:
    return feature[:, tf.newaxis, tf.newaxis] if len(feature.shape) == 2 else feature
