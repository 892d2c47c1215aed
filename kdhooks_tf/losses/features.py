"""How features are read: axes, precision, norms that stay finite at zero.

Shapes: channels are last, [N, H, W, C] (or more axes of space), [N, T, D] and rows [N, D]. A zero vector
has no direction: its unit vector is zero here and so is its gradient. Half precision is computed in
float32.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar, cast

import tensorflow as tf

from kdhooks.errors import ModelError
from kdhooks.losses import shapes
from kdhooks_tf.losses import positions
from kdhooks_tf.losses.positions import Counted, epsilon, shape_of, zero
from kdhooks_tf.losses.table import unconverted

Function = TypeVar("Function", bound=Callable[..., Any])


def rows(feature: Any) -> Any:
    """One row a sample: [N, everything else]."""
    known = shape_of(feature)[1:]
    if None in known:
        return tf.reshape(feature, [tf.shape(feature)[0], tf.reduce_prod(tf.shape(feature)[1:])])
    return tf.reshape(feature, [tf.shape(feature)[0], math.prod(known)])  # type: ignore[arg-type]


def positions_by_channels(feature: Any) -> Any:
    """[N, positions, C] of a map, of tokens or of rows (one position)."""
    if len(feature.shape) == 3:
        return feature
    if len(feature.shape) == 2:
        return feature[:, tf.newaxis]
    known = shape_of(feature)
    space = tf.reduce_prod(tf.shape(feature)[1:-1]) if None in known[1:-1] else math.prod(known[1:-1])  # type: ignore[arg-type]
    return tf.reshape(feature, [tf.shape(feature)[0], space, tf.shape(feature)[-1]])


def length(vectors: Any, axis: int) -> Any:
    """Euclidean norm, with gradient 0 at a zero vector."""
    return safe_root(tf.reduce_sum(tf.square(vectors), axis))


def safe_root(squared: Any) -> Any:
    """Square root, with gradient 0 at 0."""
    longer = squared > 0
    return tf.where(longer, tf.sqrt(tf.where(longer, squared, tf.ones_like(squared))), zero(squared))


def unit(vectors: Any, axis: int, noise: Any = None) -> Any:
    """Vectors of length 1; zero, with gradient 0, where a vector is no longer than rounding.

    Args:
        vectors: any shape.
        axis: of a vector.
        noise: squared length that rounding alone may have left, where vectors are differences.
    """
    squared = tf.reduce_sum(tf.square(vectors), axis, keepdims=True)
    floor = tf.constant(epsilon(vectors.dtype) ** 2, vectors.dtype)
    longer = squared > (floor if noise is None else noise + floor)
    return tf.where(longer, vectors / tf.sqrt(tf.where(longer, squared, tf.ones_like(squared))), zero(vectors))


def in_full_precision(loss: Function) -> Function:
    """Decorates a loss so that it gets features in float32 or wider; half precision loses sums of squares."""

    @functools.wraps(loss)
    def widened_loss(student_feature: Any, teacher_feature: Any, **options: Any) -> Any:
        return loss(*widened(student_feature, teacher_feature), **options)

    return cast(Function, unconverted(widened_loss))


def widened(student: Any, teacher: Any) -> tuple[Any, Any]:
    """Features in one dtype, float32 or wider: tensors, or lists of them of one length."""
    several = [isinstance(one, (list, tuple)) for one in (student, teacher)]
    if not any(several):
        return positions.widened(student, teacher)
    if not all(several) or len(student) != len(teacher) or not student:
        raise ModelError("student and teacher need one feature each, or lists of features of one length")
    pairs = [positions.widened(*pair) for pair in zip(student, teacher, strict=True)]
    return [pair[0] for pair in pairs], [pair[1] for pair in pairs]


def check_fit(loss: str, student: Any, teacher: Any, good: bool, need: str) -> None:
    """ModelError that names the loss and both shapes, unless they are `good`."""
    shapes.check_fit(loss, shape_of(student), shape_of(teacher), good, need)


def check_same_shape(loss: str, student: Any, teacher: Any) -> None:
    """ModelError where two features are not of one shape."""
    shapes.check_same_shape(loss, shape_of(student), shape_of(teacher))


def check_same_batch(loss: str, student: Any, teacher: Any) -> None:
    """ModelError where two features are not of one batch."""
    shapes.check_same_batch(loss, shape_of(student), shape_of(teacher))


def check_same_positions(loss: str, student: Any, teacher: Any) -> None:
    """ModelError where two features differ in batch, number of axes, space or tokens; channels may differ."""
    shapes.check_same_positions(loss, shape_of(student), shape_of(teacher), -1)


def blanked(student: Any, teacher: Any, mask: Any, sample_weight: Any) -> tuple[Any, Any, Counted]:
    """Features with zeros at the positions that don't count, and what counts."""
    mask = positions.position_mask(student, mask, -1, "features", "channels")
    counted = Counted(mask, positions.position_weight(student, sample_weight, -1))
    student, teacher = counted.blank(student, teacher)
    return student, teacher, counted


def blanked_samples(student: Any, teacher: Any, sample_weight: Any) -> tuple[Any, Any, Counted]:
    """Features, or lists of them, with zeros in the samples that weigh nothing, and what the samples count.

    Raises:
        ModelError: the weights are not [N].
    """
    if sample_weight is None:
        return student, teacher, Counted()
    weight = positions.position_weight(rows(tf.nest.flatten(student)[0]), sample_weight, -1)

    def blank(feature: Any) -> Any:
        kept = tf.reshape(tf.not_equal(weight, 0), [-1] + [1] * (len(feature.shape) - 1))
        return tf.where(kept, feature, zero(feature))

    return *tf.nest.map_structure(blank, (student, teacher)), Counted(None, weight)


def batch_size(tensor: Any) -> Any:
    """How many samples there are, at least 1, in the tensor's dtype."""
    return tf.cast(tf.maximum(tf.shape(tensor)[0], 1), tensor.dtype)


def samples(per_position: Any, counted: Counted) -> Any:
    """How many samples have a position that counts, at least 1."""
    if counted.mask is None:
        return batch_size(per_position)
    some = tf.reduce_any(counted.mask, list(range(1, len(counted.mask.shape))))
    return tf.maximum(tf.reduce_sum(tf.cast(some, per_position.dtype)), 1)


def pooled(feature: Any, space: tuple[int, int], reduce: Callable[..., Any]) -> Any:
    """A map [N, H, W, C] reduced to [N, h, w, C]: windows as even as they can be, as in adaptive pooling.

    Args:
        feature: a map whose height and width are known.
        space: h and w.
        reduce: `tf.reduce_max` or `tf.reduce_mean`.
    """
    for axis, wanted in ((1, space[0]), (2, space[1])):
        known = shape_of(feature)[axis]
        if known is None:
            raise ModelError(f"a map of shape {shape_of(feature)} can't be pooled: its height or width is not known")
        if known != wanted:
            feature = _pooled_along(feature, axis, known, wanted, reduce)
    return feature


def _pooled_along(feature: Any, axis: int, size: int, wanted: int, reduce: Callable[..., Any]) -> Any:
    if size % wanted == 0:
        shape = [tf.shape(feature)[at] if known is None else known for at, known in enumerate(shape_of(feature))]
        return reduce(tf.reshape(feature, [*shape[:axis], wanted, size // wanted, *shape[axis + 1 :]]), axis + 1)
    bounds = [(index * size // wanted, -(-(index + 1) * size // wanted)) for index in range(wanted)]
    return tf.stack([reduce(tf.gather(feature, range(*bound), axis=axis), axis) for bound in bounds], axis)
