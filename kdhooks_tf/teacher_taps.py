"""Captures a teacher's layers, and ends its forward where nothing behind is wanted."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import tensorflow as tf

from kdhooks_tf.graphs import current_graph
from kdhooks_tf.layer_names import Layer
from kdhooks_tf.outputs import constant, map_tensors
from kdhooks_tf.taps import Key, Slot, Taps

MOST_SHAPES = 256
"""Orders of calls that are remembered, one for each shape of input."""


class _Stop(BaseException):
    """Ends a forward at its deepest tapped layer; no `except Exception` of a model may hold it up."""


class _Run(threading.local):
    """One forward that was asked for, in one thread.

    Attributes:
        listening: whether it is under way.
        wanted: the layers that are looked at; None for all.
        order: the tapped layers in the order of their calls so far.
        stop: the call that ends the forward: a layer, and the number of the call among that layer's.
    """

    def __init__(self) -> None:
        self.listening = False
        self.wanted: frozenset[Key] | None = None
        self.order: list[Key] = []
        self.stop: tuple[Key, int] | None = None


class TeacherTaps(Taps):
    """The captures of a teacher, whose forward may end at the deepest layer that is wanted.

    The first forward for inputs of one shape, the batch left out, runs whole, to learn in which order layers are
    called and how often: a loop over time has more calls for a longer input. Later ones are ended by an exception
    that unwinds the model. In a function that is traced once the first is the only one: there the operations behind
    the deepest layer are made, and left out by TensorFlow when the function runs, since nothing uses them.
    """

    def __init__(self, model: Layer, role: str = "teacher", other: tuple[str, Layer] | None = None) -> None:
        super().__init__(model, role, other)
        self._run = _Run()
        self._learned: dict[Any, list[Key]] = {}
        self._latest: list[Key] = []

    def attach(self, keys: Iterable[Key]) -> None:
        """Put shims on layers."""
        super().attach(keys)
        self._learned, self._latest = {}, []

    def _refuse_recomputed(self, name: str, layers: dict[str, Layer]) -> None:
        """Nothing of a teacher is computed in a backward."""

    def recording(self, trains: bool = False) -> bool:
        """Only in forwards that we asked for."""
        return self._run.listening

    def keep(self, slot: Slot, value: Any) -> None:
        """Take the value of one call; ends the forward at the last one that is wanted."""
        run = self._run
        if not run.listening:
            return
        inside = current_graph() is self._forward.graph
        if inside:
            run.order.append(slot.key)
        if run.wanted is None or slot.key in run.wanted:
            super().keep(slot, map_tensors(constant, value) if inside else value)
        if inside and run.stop is not None and run.stop == (slot.key, run.order.count(slot.key)):
            raise _Stop

    def run(self, layers: frozenset[Key] | None, /, *args: Any, **kwargs: Any) -> Any:
        """Call the model and capture from it.

        Args:
            layers: those that are looked at, where the output is not wanted; None runs the model whole.
            args: of the model.
            kwargs: of the model.

        Returns:
            The model's output, or None where its forward was ended.
        """
        run, shapes = self._run, _shapes(args, kwargs)
        self.begin()
        run.order, run.wanted = [], layers
        run.stop = None if layers is None else _last_of(layers, self._learned.get(shapes, []))
        run.listening = True
        try:
            output = self.model(*args, **kwargs)
        except _Stop:
            return None
        finally:
            run.listening = False
            run.stop = run.wanted = None
        if len(self._learned) >= MOST_SHAPES:
            self._learned = {}
        self._learned[shapes] = self._latest = run.order
        return output

    def take(self) -> tuple[list[list[Any]], dict[Key, str]]:
        """What the last forward captured, for a function to hand out, and why layers that ran have no values."""
        silent = {key: slot.unseen for key, slot in self.slots.items() if slot.unseen}
        return [[] if slot.unseen else list(slot.calls) for slot in self.slots.values()], silent

    def put(self, captured: Sequence[Sequence[Any]], silent: Mapping[Key, str]) -> None:
        """Hold what came out of the function in which the forward ran."""
        self.begin()
        for (key, slot), calls in zip(self.slots.items(), captured, strict=True):
            for value in calls:
                slot.keep(value, current_graph())
            slot.unseen = silent.get(key, "")

    def order(self) -> list[Key]:
        """The layers that the last whole forward called, in the order of their last calls."""
        return list(dict.fromkeys(reversed(self._latest)))[::-1]


def _last_of(wanted: frozenset[Key], learned: list[Key]) -> tuple[Key, int] | None:
    """The last call of a wanted layer that a whole forward had, and its number among that layer's calls."""
    if not wanted or not wanted <= set(learned):  # a layer that did not run: its reader says so
        return None
    last = max(index for index, key in enumerate(learned) if key in wanted)
    return learned[last], learned[: last + 1].count(learned[last])


def _shapes(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Whether this is eager, and the shapes of all tensors without their batch."""
    tensors = [value for value in tf.nest.flatten((args, kwargs)) if hasattr(value, "shape")]
    return tf.executing_eagerly(), tuple(str(_shape(value)) for value in tensors)


def _shape(value: Any) -> Any:
    return None if getattr(value.shape, "rank", 0) is None else tuple(value.shape)[1:]
