"""What losses with variables share: they are made from two shapes, and draw from a generator of their own.

Nothing here touches the user's random state: all numbers come from stateless operations, seeded by
`seed`, so that every process and replica starts from the same. What a loss draws while it trains is
seeded by `seed` and the number of steps, which is one of its variables, so a resumed run draws what the
unbroken one would have. Variables are of Keras' `floatx`, float32 or wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from kdhooks.errors import ModelError
from kdhooks.losses import shapes
from kdhooks_tf.losses.features import check_fit, widened
from kdhooks_tf.losses.positions import shape_of
from kdhooks_tf.losses.table import unconverted

GENERATOR = "philox"  # the default depends on the device


class Drawing:
    """Numbers for new variables, always the same for the same seed."""

    def __init__(self, seed: int) -> None:
        self.seed, self.drawn = seed, 0

    def uniform(self, shape: Sequence[int], bound: float, dtype: str) -> Any:
        """Uniform numbers up to a bound, other ones at each call."""
        self.drawn += 1
        wide = tf.random.stateless_uniform(shape, [self.seed, self.drawn], -bound, bound, tf.float64, GENERATOR)
        return tf.cast(wide, dtype)


class Linear(tf.Module):  # type: ignore[misc]
    """x W + b along the last axis: W [inputs, outputs]."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.kernel, self.bias = variable((inputs, outputs)), variable((outputs,))

    def fill(self, drawing: Drawing) -> None:
        """Uniform up to 1 / √inputs."""
        fill_layer([self.kernel, self.bias], self.kernel.shape[0], drawing)

    def __call__(self, x: Any) -> Any:
        """The result, [..., outputs]."""
        return tf.tensordot(x, self.kernel, 1) + self.bias


class Convolution(tf.Module):  # type: ignore[misc]
    """A convolution that keeps the space: kernel [size, size, inputs, outputs]."""

    def __init__(self, inputs: int, outputs: int, size: int, *, bias: bool = True) -> None:
        super().__init__()
        self.kernel = variable((size, size, inputs, outputs))
        self.bias = variable((outputs,)) if bias else None

    def fill(self, drawing: Drawing) -> None:
        """Uniform up to 1 / √(size² inputs)."""
        held = [self.kernel] if self.bias is None else [self.kernel, self.bias]
        fill_layer(held, math.prod(self.kernel.shape[:3]), drawing)

    def __call__(self, x: Any) -> Any:
        """The result, [N, H, W, outputs]."""
        x = tf.nn.conv2d(x, self.kernel, 1, "SAME")
        return x if self.bias is None else x + self.bias


class LossModule(tf.Module):  # type: ignore[misc]
    """A loss that owns variables: ``loss(student_feature, teacher_feature, training=True)`` returns a scalar.

    ``trainable_variables`` are what an optimizer trains, ``variables`` what a checkpoint holds; both are
    in an order that doesn't change.

    Attributes:
        seed: where its own numbers start.
    """

    _loss: Callable[..., Any]  # of both features, whether it trains, and what else a loss takes

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def reset(self) -> None:
        """Fill all variables anew, always with the same numbers for the same seed."""
        drawing = Drawing(self.seed)
        for part in self.submodules:
            if hasattr(part, "fill"):
                part.fill(drawing)
        self._reset_own(drawing)

    def _reset_own(self, drawing: Drawing) -> None:
        """Fill what is not a layer."""

    def __call__(self, student_feature: Any, teacher_feature: Any, *, training: bool = True) -> Any:
        """The loss of two features, or lists of features; a scalar.

        Args:
            student_feature: of the student.
            teacher_feature: of the teacher.
            training: whether this is a training step: draws move on, memory and statistics are written.
        """
        return self._call(student_feature, teacher_feature, training)

    def _call(self, student: Any, teacher: Any, training: bool, **given: Any) -> Any:
        return unconverted(self._widened_loss)(student, teacher, training, **given)

    def _widened_loss(self, student: Any, teacher: Any, training: bool, **given: Any) -> Any:
        student, teacher = widened(student, teacher)
        dtype = self.trainable_variables[0].dtype
        student, teacher = (tf.nest.map_structure(lambda part: tf.cast(part, dtype), one) for one in (student, teacher))
        return self._loss(student, teacher, training, **given)


class DrawingLossModule(LossModule):
    """A loss that also draws random numbers in each training step.

    Attributes:
        steps: how many training steps have drawn, a variable.
    """

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.steps = constant((), tf.int64)

    def reset(self) -> None:
        """Fill all variables anew, and count steps from 0."""
        self.steps.assign(0)
        super().reset()

    def step_seed(self) -> Any:
        """The seed of this step's stateless draws."""
        return tf.stack([tf.constant(self.seed + 1, tf.int64), self.steps.read_value()])


def variable(shape: Sequence[int]) -> Any:
    """A new trainable variable, to be filled; a replica's gradient for it is the optimizer's to sum."""
    return tf.Variable(tf.zeros(shape, parameter_dtype()))


def constant(shape: Sequence[int], dtype: Any) -> Any:
    """A new variable that is written by the loss and not trained; the first replica's value is kept."""
    kept = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(tf.zeros(shape, dtype), trainable=False, aggregation=kept)


def parameter_dtype() -> str:
    """Keras' `floatx` where it is float32 or wider."""
    return "float64" if keras.config.floatx() == "float64" else "float32"


def fill_layer(held: Sequence[Any], fan_in: int, drawing: Drawing) -> None:
    """Uniform numbers up to 1 / √fan_in for weights and bias."""
    for one in held:
        one.assign(drawing.uniform(one.shape, 1 / math.sqrt(max(1, fan_in)), one.dtype))


def channels_of(loss: str, shape: Sequence[int]) -> int:
    """Channels of a shape, its last axis."""
    if len(shape) < 2:
        raise ModelError(f"the loss {loss!r} needs the shape of a batch of features, and not {list(shape)}")
    return int(shape[-1])


def check_made_for(loss: str, student: Any, teacher: Any, ends: Sequence[Any], made: Sequence[int]) -> None:
    """ModelError where features end in other channels than the loss was made for."""
    good = shapes.fits([shape_of(one)[-1] for one in ends], made)
    check_fit(loss, student, teacher, good, "the shapes it was made for")
