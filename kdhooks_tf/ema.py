"""The mean teacher: a teacher that is the exponential average of the student.

After each step of the student's optimizer θ' = decay · θ' + (1 - decay) · θ for trainable weights; the others are the
student's. Tarvainen & Valpola 2017, "Mean teachers are better role models", equation 1. A step is noticed by what it
does to the student's weights, so a bare loop needs no further call and a skipped step is none. The average is kept in
variables that the graph of a step assigns; each replica of a distribution strategy has its own copies, which are the
same, since the student's are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.config.model import AskedPrecision
from kdhooks.criterion import Step
from kdhooks.errors import CheckpointError, ModelError
from kdhooks_tf.copies import copied, put_weights, weights_of
from kdhooks_tf.replicas import counting_variable, is_distributed, local, strategy_of
from kdhooks_tf.teacher import Teacher, is_built
from kdhooks_tf.weighing import outside_branches


class MeanTeacher(Teacher):
    """A teacher that follows the student.

    Args:
        student: whose average it is.
        decay: the share of the old average that stays.
        model: what to begin from, of the student's own architecture; None is a copy of the student.
        precision, compile: as for any teacher.

    Raises:
        ModelError: `model` has other weights than the student, or the student has none yet.
    """

    stands_still = False

    def __init__(
        self,
        student: Any,
        decay: float,
        model: Any = None,
        *,
        precision: AskedPrecision | None = None,
        compile: bool = False,
    ) -> None:
        if not is_built(student):
            raise ModelError("with ema the teacher is an average of the student, which is not built yet: call it once")
        if model is None:
            with strategy_of(student).scope():
                model = copied(student, weights_of(student))
        elif _shapes(model) != _shapes(student):
            raise ModelError(
                f"with ema the teacher is an average of the student, and {type(model).__name__} has other "
                f"parameters than {type(student).__name__}"
            )
        elif is_distributed(student) and not is_distributed(model):
            raise ModelError(
                "with ema the teacher is an average of the student on each replica: make it in the scope of the "
                "student's strategy"
            )
        super().__init__(model, student, precision=precision, compile=compile)
        self.decay = decay
        self._seen: Any = None  # sums of the student's weights when it was last followed

    def on_train_begin(self) -> None:
        """Begin to follow with the student's next step."""
        super().on_train_begin()
        self._seen = counting_variable(self._nothing(), tf.float64, strategy_of(self._student))

    def on_step_end(self) -> None:
        """The optimizer has stepped."""
        self.follow()

    def on_epoch_end(self) -> None:
        """Take in the epoch's last step."""
        self.follow()

    def on_train_end(self) -> None:
        """Take in the last step, and leave the average as an ordinary model."""
        if self._seen is not None:
            self.follow()
            self._seen = None
        super().on_train_end()

    def __call__(self, value: Any, step: Step | None = None) -> Any:
        """The average's output."""
        with outside_branches():
            self.follow()
        return super().__call__(value)

    def features(self, value: Any, layers: frozenset[Any], step: Step | None = None) -> None:
        """Capture layers of the average."""
        with outside_branches():
            self.follow()
        super().features(value, layers)

    def follow(self) -> None:
        """Take in the student's last step, if there was one since the last call."""
        sums, before = self._sums(), local(self._seen)
        stepped = tf.reduce_any(sums != before) & ~tf.math.is_nan(before[0])
        share = tf.where(stepped, 1.0 - self.decay, 0.0)
        for mine, theirs in zip(self.model.weights, self._student.weights, strict=True):
            average, current = local(mine.value), tf.convert_to_tensor(theirs.value)
            if theirs.trainable and theirs.value.dtype.is_floating:
                difference = current - tf.convert_to_tensor(average)
                average.assign_add(tf.cast(share, difference.dtype) * difference)
            else:
                average.assign(current)
        self._seen.assign(sums)

    def state_dict(self) -> dict[str, Any]:
        """The average."""
        if self._seen is not None:
            self.follow()
        return weights_of(self.model)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved average; CheckpointError where it is of another model."""
        try:
            put_weights(self.model, state)
        except ModelError:
            raise CheckpointError("the state holds the average of another student") from None
        if self._seen is not None:
            self._seen.assign(self._nothing())

    def _nothing(self) -> Any:
        """Stands for sums until the first loss: weights may be loaded before it."""
        return tf.constant(np.full(len(self._trained()), np.nan))

    def _trained(self) -> list[Any]:
        return [one.value for one in self._student.trainable_weights if one.value.dtype.is_floating]

    def _sums(self) -> Any:
        """A number for each trained weight, that a step changes."""
        return tf.stack([tf.cast(tf.reduce_sum(one), tf.float64) for one in self._trained()])


def _shapes(model: Any) -> list[tuple[int, ...]]:
    return [tuple(one.shape) for one in model.weights]
