"""Loss components on the device: nothing here waits for it but the methods that read.

Rules: eager steps are kept as they come and summed for many at once; steps in a graph add to variables, since Python
code runs there only once, and so do those of replicas, each to its own copy. Components that come and go are kept apart
by the tuple of names of a step.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.errors import UsageError
from kdhooks_tf.replicas import copies, counting_variable, local, mean_over_workers, on_a_replica, write
from kdhooks_tf.weighing import PRESENT

Tensor = Any
Names = tuple[str, ...]

SPARE, WIDTH = 4, 16
"""How many combinations of how many components have a variable from the beginning."""

ROWS = 64
"""Eager steps that are kept before they are summed."""

_here = threading.local()  # replicas of a distribution strategy trace in threads of their own


@contextmanager
def watching() -> Iterator[list[tuple[Names, Sequence[Tensor]]]]:
    """Within the block, what steps of this thread record is also appended to the list: names and scalars."""
    before = getattr(_here, "seen", None)
    seen: list[tuple[Names, Sequence[Tensor]]] = []
    _here.seen = seen
    try:
        yield seen
    finally:
        _here.seen = before


class _Rows:
    """The components of steps that had the same names, as one float64 matrix with a column for each.

    Its rows: the last step's components, whether they were there, their sums, in how many steps they were there, the
    first step in which they were not finite, and the number of the record that was the last.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self.state: Any = _empty(width)  # of eager steps
        self.variable: Any = None  # of steps in a graph, padded with columns of nothing
        self.waiting: list[tuple[int, Sequence[Tensor]]] = []
        self.order = 0  # of the last eager record

    def add_in_place(self, step: Tensor, values: Sequence[Tensor], order: Tensor, *, over_workers: bool) -> None:
        """Take a step that is being traced, or one of a replica."""
        row = tf.stop_gradient(_stacked(values))
        row = mean_over_workers(row, self.variable) if over_workers else row
        there = tf.stack([_float(getattr(value, PRESENT, True)) for value in values])
        padding = [[0, 0], [0, self.variable.shape[1] - self.width]]
        row, there = (tf.pad([one], padding) for one in (row, there))
        self.variable.assign(_added(self.variable, row, there, _float(step), order))

    def add(self, step: int, values: Sequence[Tensor], order: int) -> None:
        """Take an eager step."""
        self.waiting.append((step, values))
        self.order = order
        if len(self.waiting) == ROWS:
            self.settle()

    def settle(self) -> None:
        """Sum the eager steps that wait, on the device."""
        if not self.waiting:
            return
        steps = tf.constant([[step] for step, _ in self.waiting], tf.float64)
        flat = _stacked([value for _, values in self.waiting for value in values])
        rows = tf.reshape(flat, [len(self.waiting), -1])
        self.state = _added(tf.convert_to_tensor(self.state), rows, tf.ones_like(rows), steps, self.order)
        self.waiting = []

    def read(self) -> Any:
        """The matrix of all steps, a NumPy array; waits for the device."""
        self.settle()
        state = np.asarray(self.state)
        if self.variable is None:
            return state
        last, there, sums, counts, bad, order = _over_replicas(copies(self.variable))[:, : self.width]
        if state[5, 0] > order[0]:
            last, there, order = state[0], state[1], state[5]
        return np.stack([last, there, sums + state[2], counts + state[3], np.minimum(bad, state[4]), order])

    def reset(self, *, sums: bool) -> None:
        """Search for what is not finite from here on, and with `sums` start a new epoch."""
        self.settle()

        def emptied(state: Any) -> Any:
            state = state.copy()
            state[4] = math.inf
            state[2:4] = 0.0 if sums else state[2:4]
            return state

        self.state = emptied(np.asarray(self.state))
        if self.variable is not None:
            write(self.variable, emptied(_over_replicas(copies(self.variable))))


class Monitor:
    """Keeps the last step's components, their sums over the epoch, and the first bad step.

    Args:
        strategy: the distribution strategy whose replicas will record, each for itself.
        over_workers: whether each of several processes keeps the means over all of them.
    """

    def __init__(self, strategy: Any = None, *, over_workers: bool = True) -> None:
        self._rows: dict[Names, _Rows] = {}
        self._strategy, self._over_workers = strategy, over_workers
        # made before the loop, since a tf.function may make none later
        self._spare = [counting_variable(_empty(WIDTH), tf.float64, strategy) for _ in range(SPARE)]
        self._order = counting_variable(0, tf.int64, strategy)  # counts records once one was traced
        self._traced = False
        self._eager_order = 0
        self._bad: tuple[int, str] | None = None
        self._saved: list[tuple[Names, list[float], int]] = []

    def record(self, step: Any, names: Names, values: Sequence[Tensor]) -> None:
        """Take the components of a step, scalars in the order of `names`."""
        if getattr(_here, "seen", None) is not None:
            _here.seen.append((names, values))
        rows = self._rows.get(names)
        if rows is None:
            rows = self._rows[names] = _Rows(len(names))
        if tf.inside_function() or on_a_replica():
            self._begin_to_trace(rows)
            self._order.assign_add(1)
            rows.add_in_place(step, values, local(self._order).read_value(), over_workers=self._over_workers)
            return
        if self._traced:
            self._eager_order = int(copies(self._order)[0])
        self._eager_order += 1
        if self._traced:
            write(self._order, self._eager_order)
        rows.add(step, [tf.stop_gradient(value) for value in values], self._eager_order)

    def _begin_to_trace(self, rows: _Rows) -> None:
        if rows.variable is None:
            fits = self._spare and rows.width <= WIDTH
            empty = _empty(max(WIDTH, rows.width))
            rows.variable = self._spare.pop() if fits else counting_variable(empty, tf.float64, self._strategy)
        if not self._traced:
            self._traced = True
            with tf.init_scope():
                write(self._order, self._eager_order)

    def last(self) -> dict[str, float]:
        """The components of the last step, without those of weight 0."""
        names, state = max(self._read(), key=lambda one: one[1][5, 0], default=((), _empty(0)))
        return {name: float(value) for name, value, there in zip(names, *state[:2], strict=True) if there}

    def end_epoch(self) -> dict[str, float]:
        """The mean of each component over the steps in which it was there; starts a new epoch."""
        self.first_bad()
        totals: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, sums, count in self._sums():
            for name, value in zip(names, sums, strict=True):
                totals[name] = totals.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + count
        self._saved = []
        for rows in self._rows.values():
            rows.reset(sums=True)
        return {name: total / counts[name] for name, total in totals.items()}

    def first_bad(self) -> tuple[int, str] | None:
        """Step and name of the first component that was NaN or infinite.

        Within a step the total comes last, so a term is named rather than the sum it spoiled.
        """
        found = [
            (int(step), name)
            for names, state in self._read()
            for name, step in zip(names, state[4], strict=True)
            if step != math.inf
        ]
        if found:
            for rows in self._rows.values():
                rows.reset(sums=False)
        if self._bad is None:
            self._bad = min(found, key=lambda pair: (pair[0], pair[1] == "total"), default=None)
        return self._bad

    def state_dict(self) -> dict[str, Any]:
        """The sums of the epoch that is under way."""
        return {"sums": [[list(names), sums, count] for names, sums, count in self._sums()]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Put the sums back; what was bad before is forgotten."""
        for rows in self._rows.values():
            rows.reset(sums=True)
        self._bad = None
        self._saved = [(tuple(names), list(sums), count) for names, sums, count in state["sums"]]

    def _read(self) -> list[tuple[Names, Any]]:
        if tf.inside_function():
            raise UsageError("the losses can't be read inside of a tf.function: read them afterwards")
        return [(names, rows.read()) for names, rows in self._rows.items()]

    def _sums(self) -> list[tuple[Names, list[float], int]]:
        """Names, sums and number of steps of this epoch, those of before a resume among them."""
        live: list[tuple[Names, list[float], int]] = []
        for names, state in self._read():
            for count in dict.fromkeys(state[3].astype(int).tolist()):
                group = [index for index, other in enumerate(state[3]) if other == count]
                live += [(tuple(names[one] for one in group), state[2, group].tolist(), count)] if count else []
        return [*self._saved, *live]


def _empty(width: int) -> Any:
    state = np.zeros([6, width])
    state[4] = math.inf
    return state


def _added(state: Tensor, rows: Tensor, there: Tensor, steps: Tensor, order: Any) -> Tensor:
    """A state with more steps in it: components [steps, width], whether they were there, the steps' numbers."""
    bad = tf.reduce_min(tf.where(tf.math.is_finite(rows), tf.constant(math.inf, tf.float64), steps), 0)
    sums, counts = state[2] + tf.reduce_sum(rows, 0), state[3] + tf.reduce_sum(there, 0)
    orders = tf.fill(tf.shape(rows)[1:], _float(order))
    return tf.stack([rows[-1], there[-1], sums, counts, tf.minimum(bad, state[4]), orders])


def _over_replicas(states: Sequence[Any]) -> Any:
    """One state of several: means, and the first bad step on any."""
    state = np.mean(states, 0)
    state[4] = np.min([one[4] for one in states], 0)
    return state


def _stacked(values: Sequence[Tensor]) -> Tensor:
    if len({value.dtype for value in values}) > 1:
        values = [_float(value) for value in values]
    return _float(tf.stack(list(values)))


def _float(value: Any) -> Tensor:
    return tf.cast(value, tf.float64)
