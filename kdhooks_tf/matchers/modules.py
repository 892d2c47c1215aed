"""The parts that matchers are made of, and their base class."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

Tensor = Any
Part = Callable[[Tensor, Tensor], Tensor]
"""(feature, the other side's feature) -> feature; the other side gives sizes that change from batch to batch."""


class Matcher:
    """Brings a student's feature to the shape of a teacher's.

    Called with both features, it returns both: where one side has what the other one lacks (space, a class
    token), the teacher's is reduced.

    Args:
        student: parts that are applied to the student's feature, in order.
        teacher: parts that are applied to the teacher's.

    Attributes:
        layers: the parts that own parameters.
    """

    def __init__(self, student: Sequence[Part] = (), teacher: Sequence[Part] = ()) -> None:
        self.student_parts, self.teacher_parts = list(student), list(teacher)
        self.layers = [part for part in self.student_parts if isinstance(part, Projection)]

    def __call__(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """Both features in one shape."""
        for part in self.teacher_parts:
            teacher = part(teacher, student)
        for part in self.student_parts:
            student = part(student, teacher)
        return student, teacher

    @property
    def variables(self) -> list[Any]:
        """All that a resumed run needs, `keras.Variable`s."""
        return [variable for layer in self.layers for variable in layer.variables]

    @property
    def trainable_variables(self) -> list[Any]:
        """Those that learn."""
        return self.variables

    @property
    def is_identity(self) -> bool:
        """Whether nothing happens in it."""
        return not self.student_parts and not self.teacher_parts


class Projection:
    """A linear map of the channels, or a small network of two: x W + b.

    Args:
        sizes: of the channels, from in to out; three sizes make two layers with a GELU between them.
        seed: of the weights, uniform in ±1/sqrt(in).
        dtype: of the parameters.

    Attributes:
        weights: [in, out] of each layer.
        biases: [out] of each layer.
    """

    def __init__(self, sizes: Sequence[int], seed: int, dtype: str) -> None:
        self.sizes = tuple(sizes)
        self.weights: list[Any] = []
        self.biases: list[Any] = []
        for index, (inner, outer) in enumerate(itertools.pairwise(sizes)):
            bound = 1 / math.sqrt(inner)
            self.weights.append(_drawn("weight", (inner, outer), bound, (seed, 2 * index), dtype))
            self.biases.append(_drawn("bias", (outer,), bound, (seed, 2 * index + 1), dtype))

    @property
    def variables(self) -> list[Any]:
        """Weight and bias of each layer in turn."""
        return [one for pair in zip(self.weights, self.biases, strict=True) for one in pair]

    def __call__(self, feature: Tensor, other: Tensor = None) -> Tensor:
        """The feature with its last axis mapped; all others stay."""
        width = self.sizes[-1]
        lead = feature.shape[:-1]
        sizes = tf.shape(feature)[:-1]
        rows = tf.reshape(feature, [-1, self.sizes[0]])  # one product of two matrices, also for maps and tokens
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if index:
                rows = tf.nn.gelu(rows)
            rows = tf.matmul(rows, tf.cast(weight.value, rows.dtype)) + tf.cast(bias.value, rows.dtype)
        if len(lead) == 1:
            return rows
        return tf.ensure_shape(tf.reshape(rows, tf.concat([sizes, [width]], 0)), [*lead, width])


def _drawn(name: str, shape: Sequence[int], bound: float, seed: tuple[int, int], dtype: str) -> Any:
    value = tf.random.stateless_uniform(shape, seed, -bound, bound, dtype)
    return keras.Variable(value, dtype=dtype, name=name)


def _axis_mapped(feature: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """The sums over one axis that the rows of a matrix weigh."""
    letters = "abcdefg"[: len(feature.shape)]
    result = letters.replace(letters[axis], "z")
    return tf.einsum(f"z{letters[axis]},{letters}->{result}", tf.cast(matrix, feature.dtype), feature)


def _wide(feature: Tensor) -> Any:
    """The dtype in which interpolation weights are computed."""
    return tf.float64 if feature.dtype == tf.float64 else tf.float32


def _size(feature: Tensor, axis: int) -> Any:
    """The size of an axis, a number where it is known before the step."""
    known = feature.shape[axis]
    return tf.shape(feature)[axis] if known is None else known


def _interpolation(inner: Any, outer: Any, dtype: Any) -> Tensor:
    """[outer, inner], the weights of linear interpolation with half-pixel centres, edges not aligned."""
    scale = tf.cast(inner, dtype) / tf.cast(outer, dtype)
    place = tf.maximum((tf.cast(tf.range(outer), dtype) + 0.5) * scale - 0.5, 0)
    low = tf.floor(place)
    share = (place - low)[:, None]
    first = tf.cast(low, tf.int32)
    second = tf.minimum(first + 1, inner - 1)
    return tf.one_hot(first, inner, dtype=dtype) * (1 - share) + tf.one_hot(second, inner, dtype=dtype) * share


def _resized_to(feature: Tensor, sizes: Sequence[Any]) -> Tensor:
    for axis, size in enumerate(sizes, 1):
        inner = _size(feature, axis)
        if not (isinstance(inner, int) and isinstance(size, int) and inner == size):
            feature = _axis_mapped(feature, _interpolation(inner, size, _wide(feature)), axis)
    return feature


def resized(feature: Tensor, other: Tensor) -> Tensor:
    """[N, *space, C] to the other one's space, bilinear (linear, trilinear), edges not aligned."""
    return _resized_to(feature, [_size(other, axis) for axis in range(1, len(other.shape) - 1)])


def pooled_tokens(feature: Tensor, other: Tensor) -> Tensor:
    """[N, T, D] to as many tokens as [N, T', ...] has, each the mean of its share."""
    inner, outer = _size(feature, 1), _size(other, 1)
    if isinstance(inner, int) and isinstance(outer, int) and inner == outer:
        return feature
    dtype = _wide(feature)
    index, places = tf.range(outer), tf.range(inner)
    begin = index * inner // outer
    end = ((index + 1) * inner + outer - 1) // outer
    inside = tf.logical_and(places[None, :] >= begin[:, None], places[None, :] < end[:, None])
    return _axis_mapped(feature, tf.cast(inside, dtype) / tf.cast(end - begin, dtype)[:, None], 1)


def without_first_tokens(count: int) -> Part:
    """[N, T + count, D] to [N, T, D]."""
    return lambda feature, other: feature[:, count:]


def mean_of_space(feature: Tensor, other: Tensor) -> Tensor:
    """[N, *space, C] to [N, C]."""
    return tf.reduce_mean(feature, list(range(1, len(feature.shape) - 1)))


def mean_of_tokens(feature: Tensor, other: Tensor) -> Tensor:
    """[N, T, D] to [N, D]."""
    return tf.reduce_mean(feature, 1)


def as_tokens(feature: Tensor, other: Tensor) -> Tensor:
    """[N, H, W, C] to [N, H * W, C]."""
    return tf.reshape(feature, [_size(feature, 0), *_product(feature), feature.shape[-1]])


def _product(feature: Tensor) -> list[Any]:
    """How many places a map has, as a list of one size."""
    known = feature.shape[1:-1]
    return [math.prod(known)] if None not in known else [tf.reduce_prod(tf.shape(feature)[1:-1])]


def _side(tokens: Any) -> Any:
    """The side of a square grid of tokens."""
    return math.isqrt(tokens) if isinstance(tokens, int) else tf.cast(tf.sqrt(tf.cast(tokens, tf.float32)), tf.int32)


def as_grid(feature: Tensor, other: Tensor) -> Tensor:
    """[N, g * g, D] to [N, g, g, D]."""
    side = _side(_size(feature, 1))
    return tf.reshape(feature, [_size(feature, 0), side, side, feature.shape[-1]])


def on_grid_of(feature: Tensor, other: Tensor) -> Tensor:
    """[N, H, W, C] to [N, g, g, C], where the other one has g * g tokens."""
    side = _side(_size(other, 1))
    return _resized_to(feature, [side, side])


def flattened(feature: Tensor, other: Tensor) -> Tensor:
    """[N, ...] to [N, D]."""
    return tf.reshape(feature, [_size(feature, 0), math.prod(feature.shape[1:])])


def shaped_like(feature: Tensor, other: Tensor) -> Tensor:
    """[N, D] to the shape of the other one."""
    return tf.reshape(feature, [_size(feature, 0), *other.shape[1:]])
