"""L2-SP: weights stay near those that they began from.

Li, Grandvalet & Davoine 2018, "Explicit inductive bias for transfer learning with convolutional networks", equation 3:
``alpha / 2 ||w_S - w_S0||² + beta / 2 ||w_new||²``, where w_S are the weights that were transferred, w_S0 their values
before training, and w_new all others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.config.finetune_settings import Scheduled
from kdhooks.criterion import Step
from kdhooks.errors import CheckpointError
from kdhooks.pairs.bound import Bound
from kdhooks.schedules import Schedule, constant_value
from kdhooks.transfer import StartingPoint
from kdhooks_tf.matcher_training import array_of
from kdhooks_tf.replicas import strategy_of
from kdhooks_tf.transfer.names import named_weights
from kdhooks_tf.weighing import scheduled

Tensor = Any


class L2SP(StartingPoint):
    """Weights stay near those that they began from (Li, Grandvalet & Davoine 2018, equation 3).

    Args:
        weight: alpha, a number or a schedule.
        new_weight: beta, the same for what was not transferred.
        transferred: names of the student's weights that come from the source; None means all.

    Its components are ``L2-SP`` and ``L2-SP.new``, both unweighted. The starting point is the student when a run
    begins; it is held in memory once more, and in `state_dict()`.
    """

    name = "L2-SP"

    def __init__(
        self, weight: Scheduled = 0.01, new_weight: Scheduled = 0.01, *, transferred: Collection[str] | None = None
    ) -> None:
        super().__init__(weight, new_weight, transferred)
        self._start: dict[str, Any] = {}

    def scheduled(self, schedule: Schedule) -> Callable[[Any], Any]:
        """A schedule that takes the step of a graph."""
        return scheduled(schedule)

    def bind(self, bound: Bound) -> None:
        """Take the student of a run."""
        self._model = bound.student.model

    def on_train_begin(self) -> None:
        """Remember where the student begins, frozen layers too: they may be set free later."""
        student = self._student()
        with strategy_of(student).scope():
            self._start = {
                name: tf.Variable(array_of(one), trainable=False)
                for name, one in _learnable(student).items()
                if constant_value(self._weight) != 0 and self._is_transferred(name)
            }

    def on_train_end(self) -> None:
        """Let go of the student."""
        self._model = None

    def value(self, step: Step) -> Tensor:
        """Half the squared distance to the starting point."""
        named = self._trained().items()
        return half_squares(
            [tf.convert_to_tensor(one) - self._start[name] for name, one in named if name in self._start]
        )

    def decay(self, step: Step) -> Tensor:
        """Half the squared norm of the weights that were not transferred."""
        named = self._trained().items()
        return half_squares([tf.convert_to_tensor(one) for name, one in named if not self._is_transferred(name)])

    def _trained(self) -> dict[str, Any]:
        """The student's weights that are trained now."""
        return {name: one for name, one in _learnable(self._student()).items() if one.trainable}

    def state_dict(self) -> dict[str, Any]:
        """The starting point, and what is part of it: a run that goes on transfers nothing."""
        return {**super().state_dict(), "start": {name: array_of(one) for name, one in self._start.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved run's starting point; CheckpointError where it is of another student."""
        super().load_state_dict(state)
        student = self._student()
        own = {name: tuple(one.shape) for name, one in _learnable(student).items()}
        start = {name: np.asarray(one) for name, one in state.get("start", {}).items()}
        if any(own.get(name) != one.shape for name, one in start.items()):
            raise CheckpointError("the state holds the starting point of another student")
        with strategy_of(student).scope():
            self._start = {name: tf.Variable(one, trainable=False) for name, one in start.items()}


def _learnable(student: Any) -> dict[str, Any]:
    """The weights that no layer keeps as statistics, also where they are frozen."""
    statistics = {id(one) for layer in student._flatten_layers() for one in layer._non_trainable_variables}
    return {name: one for name, one in named_weights(student).items() if id(one) not in statistics}


def half_squares(tensors: Sequence[Tensor]) -> Tensor:
    """Half the sum of squares of all numbers in tensors, a scalar in float32 or wider."""
    wide = [tf.cast(one, tf.float32) if one.dtype.size < 4 else one for one in tensors]
    return tf.add_n([tf.nn.l2_loss(one) for one in wide]) if wide else tf.zeros(())
