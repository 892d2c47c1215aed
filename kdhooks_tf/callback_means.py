"""Means of the loss components over the epoch so far, counted by examples as Keras counts its ``loss``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks_tf.monitor import SPARE, WIDTH
from kdhooks_tf.replicas import copies, counting_variable, write
from kdhooks_tf.weighing import PRESENT

PREFIX = "distillation/"
"""Stands before a component's name in the logs, so that it can't be a metric of the user's."""


class ComponentMeans:
    """Sums in variables of our own, which no model tracks; added to in the graph of a step.

    One variable holds the sums of all components that a step has, and below each the number of examples
    in which it was there, so that a step has one assignment more.

    Args:
        strategy: the distribution strategy whose replicas will add, each for itself.
    """

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy
        self._sums: dict[tuple[str, ...], Any] = {}
        self._spare = [self._variable(WIDTH) for _ in range(SPARE)]  # a tf.function may make none later

    def reset(self) -> None:
        """An epoch begins."""
        for sums in self._sums.values():
            write(sums, tf.zeros(sums.shape))

    def add(self, names: Sequence[str], values: Sequence[Any], examples: Any) -> None:
        """Count a step in: scalar components and the number of examples, an integer tensor."""
        if not names:
            return
        there = tf.stack([tf.cast(getattr(value, PRESENT, True), tf.float32) for value in values])
        there *= tf.cast(examples, tf.float32)
        row = tf.stack([tf.stop_gradient(tf.cast(value, tf.float32)) for value in values]) * there
        sums = self._of(tuple(names))
        sums.assign_add(tf.pad(tf.stack([row, there]), [[0, 0], [0, sums.shape[1] - len(names)]]))

    def of_step(self, names: Sequence[str]) -> dict[str, Any]:
        """The means by their names in the logs, scalars in the graph of a step that has these components."""
        if not names:
            return {}
        sums, counts = tf.unstack(self._of(tuple(names))[:, : len(names)])
        means = tf.unstack(tf.math.divide_no_nan(sums, counts))
        return {PREFIX + name: mean for name, mean in zip(names, means, strict=True)}

    def of_epoch(self) -> dict[str, Any]:
        """The means of all steps and replicas, read outside of any graph; 0 of what was never there."""
        sums: dict[str, Any] = {}
        for names, variable in self._sums.items():
            whole = np.sum(copies(variable), 0)
            if whole[1].any():
                for name, column in zip(names, whole.T, strict=False):
                    sums[name] = sums.get(name, 0.0) + column
        return {PREFIX + name: float(total / count) if count else 0.0 for name, (total, count) in sums.items()}

    def _of(self, names: tuple[str, ...]) -> Any:
        if names not in self._sums:
            fits = self._spare and len(names) <= WIDTH
            self._sums[names] = self._spare.pop() if fits else self._variable(len(names))
        return self._sums[names]

    def _variable(self, width: int) -> Any:
        return counting_variable(np.zeros([2, width]), tf.float32, self._strategy)
