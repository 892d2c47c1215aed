"""Captures what goes through named layers, once a step, for all terms that look at it.

Rules: a shim stands in the place of `call` in the `__dict__` of each tapped layer and of the model, where Keras
tracks and saves nothing; with the last user it is gone, and a copy, a clone, a pickle or a saved model never had it.
The model's forward begins a new capture; so however many forwards there are between two losses, one forward's values
are held. A forward counts where a tape is open around it, or where a function is traced with training=True;
evaluation is neither. Nothing is raised inside of a forward, where Keras would rewrite it: the reader is told.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from kdhooks.errors import LayerError
from kdhooks_tf.graphs import Graph, current_graph, is_of_one_turn, is_trial, tape_records, usable_now
from kdhooks_tf.layer_names import Layer, find_layer, named_layers, require_built
from kdhooks_tf.shims import Shim, own_call, shim_on

Key = tuple[str, bool]
"""A layer's name, and whether its input is meant."""

INNER, ELSEWHERE = "inner", "elsewhere"
"""Why a layer that ran has no values: it ran in a function inside of the forward; the loss is in another function."""


class Slot(threading.local):
    """What was captured at one layer; each replica's thread has its own.

    Attributes:
        key: the layer, and whether its input is meant.
        calls: one value for each call of the layer in the last forward.
        unseen: why there are none of a layer that ran: `INNER`, `ELSEWHERE`, or an empty text.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        self.calls: list[Any] = []
        self.unseen = ""
        self._graph: Graph = None

    def keep(self, value: Any, graph: Graph) -> None:
        """Take the value of one call, which was made in a graph."""
        self._graph = graph
        self.calls.append(value)

    def read(self) -> list[Any]:
        """The values, where they can be used; none where one call's value cannot (an RNN tries its cell outside)."""
        if self.calls and not self.unseen and not usable_now(self._graph):
            self.unseen = ELSEWHERE
        return [] if self.unseen else self.calls

    def clear(self) -> None:
        """Let go of the values."""
        self.calls, self.unseen, self._graph = [], "", None

    def held(self) -> tuple[Any, ...]:
        """What is held, for `put_back`."""
        return self.calls, self.unseen, self._graph

    def put_back(self, held: tuple[Any, ...]) -> None:
        """Hold what was held."""
        self.calls, self.unseen, self._graph = held


class _Forward(threading.local):
    """The model's forward, in one thread.

    Attributes:
        depth: how many forwards of the model are under way, one inside of another.
        counts: whether this forward is one to capture.
        whole: whether what is held is of a forward of the whole model.
        graph: where it runs.
        checked: operations of the graph that are known not to be of a loop.
    """

    def __init__(self) -> None:
        self.depth = 0
        self.counts = self.whole = False
        self.graph: Graph = None
        self.checked: set[str] = set()


class Taps:
    """The captures of one model.

    Args:
        model: whose layers are named.
        role: what the model is called in errors.
        other: role and model of the other side, for the error about a layer that only that one has.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="first")])
    >>> taps = Taps(model)
    >>> taps.attach([("first", False)])
    >>> with tf.GradientTape():
    ...     output = model(tf.ones((4, 2)))
    >>> taps.slots["first", False].read()[0].shape
    TensorShape([4, 3])
    >>> taps.detach()
    """

    def __init__(self, model: Layer, role: str = "student", other: tuple[str, Layer] | None = None) -> None:
        self.model = self.root = model
        self.role, self._other = role, other
        self.kind = type(model).__name__
        self.slots: dict[Key, Slot] = {}
        self._forward = _Forward()
        self._shims: list[Shim] = []

    @property
    def inside(self) -> bool:
        """Whether the model's forward is under way."""
        return self._forward.depth > 0

    def find(self, layer: str) -> str:
        """The name of a layer as its author gave it; LayerError where there is none."""
        require_built(self.model, self.role)
        return find_layer(self.model, layer, self.role, self._other)[0]

    def attach(self, keys: Iterable[Key]) -> None:
        """Put shims on layers; on those that have one already none is added.

        Raises:
            ModelError: the model is not built.
            LayerError: there is no such layer, or it is computed once more in the backward.
        """
        require_built(self.model, self.role)
        layers = named_layers(self.model)
        for key in keys:
            if key in self.slots:
                continue
            name, layer = find_layer(self.model, key[0], self.role, self._other)
            self._refuse_recomputed(name, layers)
            slot = Slot(key)
            shim = shim_on(layer)
            (shim.inputs if key[1] else shim.outputs).append((self, slot))
            self.slots[key] = slot
            self._shims.append(shim)
            self._listen_to_model()

    def _listen_to_model(self) -> None:
        shim = shim_on(self.model)
        if not any(taps is self for taps in shim.models):
            shim.models.append(self)
            self._shims.append(shim)

    def _refuse_recomputed(self, name: str, layers: dict[str, Layer]) -> None:
        """Tensors inside of what Keras rematerializes have no gradient that the tape could see."""
        parts = name.split("/") if name else []
        for end in range(len(parts) + 1):
            above = "/".join(parts[:end])
            if getattr(layers.get(above), "_remat_mode", None):
                raise LayerError(
                    f"{self.role} {self.kind}: layer {name!r} is computed once more in the backward, since {above!r} "
                    "was made in a RematScope, so its values cannot be had",
                    "Make it outside of the scope, or map the input of the layer behind it.",
                )

    def in_function(self, name: str) -> bool:
        """Whether a layer around this one has a `call` that is a `tf.function`, whose graph is its own."""
        layers = named_layers(self.model)
        parts = name.split("/")
        above = [layers.get("/".join(parts[:end])) for end in range(len(parts))] if name else []
        return any(isinstance(own_call(layer), tf.types.experimental.PolymorphicFunction) for layer in above)

    def detach(self) -> None:
        """Take every shim off; a second call does nothing."""
        shims, self._shims = self._shims, []
        for shim in shims:
            shim.drop(self)
        self.release()
        self.slots = {}

    def enter(self, training: Any) -> None:
        """The model's forward begins."""
        forward = self._forward
        forward.depth += 1
        if forward.depth == 1:
            forward.graph = current_graph()
            forward.counts = self.recording(training is True and forward.graph is not None)
            if forward.counts:
                self.begin()

    def leave(self) -> None:
        """The model's forward ends."""
        self._forward.depth -= 1

    def begin(self) -> None:
        """A new forward: what the last one left is dropped."""
        for slot in self.slots.values():
            slot.clear()
        self._forward.whole = True
        self._forward.checked = set()

    def keep(self, slot: Slot, value: Any) -> None:
        """Take the value of one call, where this forward is one to capture."""
        forward, graph = self._forward, current_graph()
        if forward.depth:
            if not forward.counts or is_trial(graph):
                return
            if graph is not forward.graph or (graph is not None and self._of_one_turn(value)):
                slot.unseen = INNER
                return
        elif forward.whole or not self.recording():
            return
        else:  # a layer called without its model: nothing may pile up
            slot.clear()
        slot.keep(value, graph)

    def _of_one_turn(self, value: Any) -> bool:
        tensors = tf.nest.flatten(value, expand_composites=True)
        return is_of_one_turn([one for one in tensors if tf.is_tensor(one)], self._forward.checked)

    def recording(self, trains: bool = False) -> bool:
        """Whether this is a forward for a loss: a tape is open, or a function is traced that `trains`."""
        return trains or tape_records()

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Capture another forward in the block; afterwards what was captured before is there again."""
        forward, slots = self._forward, list(self.slots.values())
        kept, state = [slot.held() for slot in slots], (forward.whole, forward.graph, forward.checked)
        for slot in slots:
            slot.clear()
        try:
            yield
        finally:
            for slot, held in zip(slots, kept, strict=True):
                slot.put_back(held)
            forward.whole, forward.graph, forward.checked = state

    def release(self) -> None:
        """Let go of all values; the loss has them."""
        for slot in self.slots.values():
            slot.clear()
        self._forward.whole = False
        self._forward.graph, self._forward.checked = None, set()
