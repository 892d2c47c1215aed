"""Counts losses where steps may run in a graph: Python code runs there once, and the graph at every step.

Rules: a step in eager mode counts in Python. A step that is traced reads its number from a variable and adds to it;
from the first such step on the variable counts for eager steps as well, so that a loop may mix both. The variable is
made before the loop, since a `tf.function` may make none later. Reading `step` waits for the device, a step in a graph
does not. Each replica of a distribution strategy counts for itself, and all count the same.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kdhooks.clock import Clock as PythonClock
from kdhooks.errors import UsageError
from kdhooks_tf.graphs import ask_at_each_call
from kdhooks_tf.replicas import copies, counting_variable, place_of_replica, write

Tensor = Any


class Clock(PythonClock):
    """The core's clock, with a variable once a step was traced.

    Args:
        strategy: the distribution strategy whose replicas will count, each for itself.

    Attributes:
        step: the number that the next loss will have.
        steps_in_epoch: losses so far in this epoch.
    """

    def __init__(self, strategy: Any = None) -> None:
        self._variables = [counting_variable(0, tf.int64, strategy) for _ in range(2)]
        self._counts = [[0 for _ in copies(one)] for one in self._variables]  # of each replica of this process
        self._traced = self._over = False

    @property
    def step(self) -> int:
        """The number that the next loss will have; waits for the device."""
        return self._read(0)

    @step.setter
    def step(self, step: Any) -> None:
        if not tf.inside_function():
            self._write(0, step)
        elif tf.is_tensor(step):
            self._graph_variable().assign(tf.cast(step, tf.int64))
        else:
            raise UsageError(
                f"on_step_begin({step}) inside of a tf.function would set this number at every step, since Python code "
                "runs there only once: call it outside, or hand in a tensor"
            )

    @property
    def steps_in_epoch(self) -> int:
        """Losses so far in this epoch; waits for the device."""
        return self._read(1)

    @steps_in_epoch.setter
    def steps_in_epoch(self, steps: int) -> None:
        self._write(1, steps)

    def now(self) -> Any:
        """An integer in eager mode, an int64 scalar in a graph.

        Raises:
            UsageError: (the function that is being traced) called when this run is over.
        """
        if not tf.inside_function():
            return self.step
        ask_at_each_call(self, self._check_running)
        return self._graph_variable().read_value()

    def advance(self, index: Any) -> None:
        """The loss of this number is computed."""
        if tf.is_tensor(index):
            for variable in self._variables:
                variable.assign_add(1)
        else:
            self._write(0, index + 1, here=True)
            self._write(1, self._read(1) + 1, here=True)

    def end(self) -> None:
        """No step of this run comes any more."""
        self._over = True

    def _check_running(self) -> None:
        if self._over:
            raise UsageError(
                "this tf.function was traced in a run that is over, and would go on with the schedules, teachers and "
                "matchers of that run: make it anew, with tf.function(...), after on_train_begin()"
            )

    def _graph_variable(self) -> Any:
        if not self._traced:
            self._traced = True
            with tf.init_scope():
                for variable, counts in zip(self._variables, self._counts, strict=True):
                    write(variable, counts[0])
        return self._variables[0]

    def _read(self, place: int) -> int:
        replica = place_of_replica(len(self._counts[place]))
        if not self._traced:
            return self._counts[place][replica]
        if tf.inside_function():
            raise UsageError("the number of the step can't be read inside of a tf.function: read it afterwards")
        return int(copies(self._variables[place])[replica])

    def _write(self, place: int, count: Any, *, here: bool = False) -> None:
        """Set a count of all replicas, or of the one that runs here."""
        counts = self._counts[place]
        replica = place_of_replica(len(counts)) if here else None
        if self._traced:
            write(self._variables[place], tf.cast(count, tf.int64), replica)
            return
        for number in range(len(counts)) if replica is None else (replica,):
            counts[number] = int(count)
