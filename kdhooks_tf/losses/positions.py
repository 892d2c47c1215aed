"""Which positions of logits and features count and how much, and the mean over them.

A *position* is what is left without the class (or channel) axis: a row, a token, a pixel. What does not
count is blanked before any arithmetic, since 0 * NaN is NaN in the backward of a masked position; what
has the weight 0 is blanked too, though it counts. The mean is Keras' "sum_over_batch_size":
sum(weight * loss) / number of positions that count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.errors import ModelError, UsageError
from kdhooks.losses import shapes


@dataclass(frozen=True)
class Counted:
    """Which positions count, and how much each weighs.

    Attributes:
        mask: booleans in the shape of the positions; None where all count.
        weight: numbers in the shape of the positions, or with axes of size 1 after the first; None is 1.
    """

    mask: Any = None
    weight: Any = None

    def blank(self, *tensors: Any) -> list[Any]:
        """Tensors with classes, or channels, last: zeros where a position doesn't count or weighs nothing."""
        kept = self.mask
        if self.weight is not None:
            weighs = tf.not_equal(self.weight, 0)
            kept = weighs if kept is None else tf.logical_and(kept, weighs)
        if kept is None:
            return list(tensors)
        return [tf.where(kept[..., tf.newaxis], one, zero(one)) for one in tensors]

    def total(self, values: Any) -> Any:
        """Weighted sum of one value a position."""
        if self.weight is not None:
            values = values * self.weight
        return tf.reduce_sum(values if self.mask is None else tf.where(self.mask, values, zero(values)))

    def number(self, values: Any) -> Any:
        """How many of these positions count, at least 1, in the dtype of the values."""
        if self.mask is None:
            return size(values)
        return tf.maximum(tf.reduce_sum(tf.cast(self.mask, values.dtype)), 1)

    def mean(self, per_class: Any, temperature: Any = 1.0) -> Any:
        """Sum over classes, mean over the positions that count, times T²; 0 where none counts."""
        values = tf.reduce_sum(per_class, -1)
        return self.total(values) * squared(temperature, values.dtype) / self.number(values)


def zero(like: Any) -> Any:
    """A scalar 0 of a tensor's dtype."""
    return tf.zeros((), like.dtype)


def size(values: Any) -> Any:
    """How many numbers a tensor has, at least 1, in its dtype."""
    return tf.cast(tf.maximum(tf.size(values), 1), values.dtype)


def classes(tensor: Any) -> Any:
    """The size of the last axis, in the tensor's dtype."""
    return tf.cast(tf.shape(tensor)[-1], tensor.dtype)


def tiny(dtype: Any) -> float:
    """The smallest normal number of a dtype."""
    return float(np.finfo(dtype.as_numpy_dtype).tiny)


def epsilon(dtype: Any) -> float:
    """The distance from 1 to the next number of a dtype."""
    return float(np.finfo(dtype.as_numpy_dtype).eps)


def shape_of(tensor: Any) -> list[int | None]:
    """The sizes that are known before a graph runs; ModelError where not even the number of axes is."""
    if tensor.shape.rank is None:
        raise ModelError("the number of axes of logits and features must be known when a graph is traced")
    return list(tensor.shape.as_list())


def squared(temperature: Any, dtype: Any) -> Any:
    """T² of a number or a scalar tensor."""
    if isinstance(temperature, (int, float)):
        return tf.constant(temperature * temperature, dtype)
    return tf.square(tf.cast(temperature, dtype))


def softened(logits: Any, temperature: Any) -> Any:
    """Logits z / T, for a T that is a number or a scalar tensor."""
    if isinstance(temperature, (int, float)):  # tf.cast would round it to float32 first
        return logits if temperature == 1 else logits / tf.constant(temperature, logits.dtype)
    return logits / tf.cast(temperature, logits.dtype)


def log_softmax(logits: Any, temperature: Any) -> Any:
    """Log of softmax(z / T) over the last axis."""
    return tf.nn.log_softmax(softened(logits, temperature))


def divergence(log_p: Any, log_q: Any) -> Any:
    """P (log p - log q), class by class: summed it is KL(p || q)."""
    return tf.exp(log_p) * (log_p - log_q)


def widened(student: Any, teacher: Any) -> tuple[Any, Any]:
    """Half precision as float32; the teacher in the student's dtype."""
    student, teacher = tf.convert_to_tensor(student), tf.convert_to_tensor(teacher)
    if student.dtype in (tf.float16, tf.bfloat16):
        student = tf.cast(student, tf.float32)
    return student, tf.cast(teacher, student.dtype)


def check_shapes(student: Any, teacher: Any) -> None:
    """ModelError where logits are not of one shape, so that nothing broadcasts by accident."""
    shapes.check_logits(shape_of(student), shape_of(teacher))


def prepare(student: Any, teacher: Any, mask: Any, axis: int, sample_weight: Any = None) -> tuple[Any, Any, Counted]:
    """Check shapes before any arithmetic can broadcast; widen half precision; blank what doesn't count.

    Returns:
        Both logits with the classes last, and what counts.
    """
    student, teacher = widened(student, teacher)
    check_shapes(student, teacher)
    mask = position_mask(student, mask, axis, "logits", "classes")
    counted = Counted(mask, position_weight(student, sample_weight, axis))
    student, teacher = counted.blank(classes_last(student, axis), classes_last(teacher, axis))
    return student, teacher, counted


def prepare_labelled(
    loss: str, student: Any, teacher: Any, target: Any, mask: Any, axis: int, sample_weight: Any
) -> tuple[Any, Any, Any, Counted]:
    """`prepare` for a loss that needs the target: positions with a negative label don't count.

    Args:
        loss: the loss's name, for messages.
        student: logits.
        teacher: logits of the same shape.
        target: class indices in the shape of the positions, negative (-100) for unlabelled; or
            probabilities of the shape of the logits, whose most probable class is the label.
        mask: positions that count.
        axis: the class axis.
        sample_weight: of the positions.

    Returns:
        Both logits with the classes last, booleans of their shape that are True at the label, and what
        counts.

    Raises:
        UsageError: there is no target.
        ModelError: shapes that don't fit, or fewer than two classes.
    """
    student, teacher = widened(student, teacher)
    check_shapes(student, teacher)
    if target is None:
        raise UsageError(f"the loss {loss!r} needs the labels: pass target=")
    shapes.check_classes(loss, shape_of(student), axis)
    label = labels(tf.convert_to_tensor(target), student, axis)
    labelled = tf.greater_equal(label, 0)
    mask = position_mask(student, mask, axis, "logits", "classes")
    mask = labelled if mask is None else tf.logical_and(labelled, mask)
    counted = Counted(mask, position_weight(student, sample_weight, axis))
    student, teacher = counted.blank(classes_last(student, axis), classes_last(teacher, axis))
    return student, teacher, one_hot(tf.maximum(label, 0), student), counted


def labels(target: Any, logits: Any, axis: int) -> Any:
    """Class indices in the shape of the positions, of indices or of probabilities."""
    if target.dtype.is_floating and shapes.fits(shape_of(target), shape_of(logits)):
        return tf.argmax(target, axis)
    shapes.check_target(shape_of(target), shape_of(logits), axis)
    return tf.cast(target, tf.int64)


def one_hot(label: Any, logits: Any) -> Any:
    """Booleans of the shape of logits with the classes last, True at the label."""
    return tf.one_hot(label, tf.shape(logits)[-1], True, False, dtype=tf.bool)


def position_mask(tensor: Any, mask: Any, axis: int, what: str, along: str) -> Any:
    """The mask as booleans, None for None; ModelError for another shape than that of the positions."""
    if mask is None:
        return None
    mask = tf.convert_to_tensor(mask)
    shapes.check_mask(shape_of(mask), shape_of(tensor), axis, what, along)
    return tf.cast(mask, tf.bool)


def position_weight(tensor: Any, sample_weight: Any, axis: int) -> Any:
    """A weight of each sample or position, in the tensor's dtype, with an axis for each of the positions.

    Raises:
        ModelError: it is neither [N] nor of the shape of the positions.
    """
    if sample_weight is None:
        return None
    weight = tf.cast(sample_weight, tensor.dtype)
    positions = shapes.without(shape_of(tensor), axis)
    if weight.shape.rank == len(positions) + 1 and weight.shape[-1] == 1:
        weight = tf.squeeze(weight, -1)  # Keras hands [N, 1] for [N]
    given = shape_of(weight)
    if len(given) == 1 and shapes.fits(given, positions[:1]):
        return tf.reshape(weight, [-1] + [1] * (len(positions) - 1))
    if not shapes.fits(given, positions):
        raise ModelError(
            f"the sample_weight has shape {given}; for a tensor of shape {shape_of(tensor)} it must be "
            f"{positions[:1]} or {positions}"
        )
    return weight


def classes_last(logits: Any, axis: int) -> Any:
    """The logits with the class axis moved to the end."""
    axes = list(range(len(logits.shape)))
    if axes[axis] == axes[-1]:
        return logits
    return tf.transpose(logits, [*shapes.without(axes, axis), axes[axis]])
