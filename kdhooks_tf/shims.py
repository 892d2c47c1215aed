"""What stands in the place of a layer's `call`, so that others are told what goes in and comes out.

Rules: it stands in the instance's `__dict__`, past Keras' own `__setattr__`, so Keras tracks and saves nothing of it;
with the last who listens it is gone, and the `__dict__` is what it was. A copy or a pickle of the layer never has it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import update_wrapper
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from kdhooks_tf.layer_names import Layer


class Listener(Protocol):
    """Who is told."""

    def enter(self, training: Any) -> None:
        """The model's forward begins."""

    def leave(self) -> None:
        """The model's forward ends."""

    def keep(self, slot: Any, value: Any) -> None:
        """A value went into a layer or came out of it."""


class Shim:
    """Stands for the `call` of one layer and tells those who listen.

    Args:
        layer: whose `call` it takes the place of.

    Attributes:
        before: what stood in its place in the `__dict__`, or None.
        models: the taps that have this layer as their model.
        inputs: who looks at what goes in.
        outputs: who looks at what comes out.
    """

    def __init__(self, layer: Layer) -> None:
        self._layer, self.before = layer, layer.__dict__.get("call")
        self._call: Callable[..., Any] = layer.call
        self.models: list[Listener] = []
        self.inputs: list[tuple[Listener, Any]] = []
        self.outputs: list[tuple[Listener, Any]] = []
        update_wrapper(self, self._call, updated=())  # who asks for its signature gets the layer's
        layer.__dict__["call"] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer, and tell what went in and came out."""
        for taps in self.models:
            taps.enter(kwargs.get("training"))
        try:
            for taps, slot in self.inputs:
                taps.keep(slot, _given(self._call, args, kwargs))
            output = self._call(*args, **kwargs)
            for taps, slot in self.outputs:
                taps.keep(slot, output)
        finally:
            for taps in self.models:
                taps.leave()
        return output

    def __reduce__(self) -> Any:
        return getattr, (self._layer, "call")  # a copy's own call: it comes before what is in its __dict__

    def drop(self, taps: Listener) -> None:
        """Tell these taps nothing more; take the shim off where it was the last to be told."""
        self.models = [one for one in self.models if one is not taps]
        self.inputs = [one for one in self.inputs if one[0] is not taps]
        self.outputs = [one for one in self.outputs if one[0] is not taps]
        if self.models or self.inputs or self.outputs or self._layer.__dict__.get("call") is not self:
            return  # under somebody else's shim it stays, and does nothing
        if self.before is None:
            del self._layer.__dict__["call"]
        else:
            self._layer.__dict__["call"] = self.before


def own_call(layer: Layer) -> Any:
    """A layer's `call` as its author wrote it."""
    standing = vars(layer).get("call") if layer is not None else None
    if isinstance(standing, Shim):
        standing = standing.before
    return standing if standing is not None else getattr(type(layer), "call", None)


def shim_on(layer: Layer) -> Shim:
    """The layer's shim, which all taps on it share."""
    standing = layer.__dict__.get("call")
    return standing if isinstance(standing, Shim) else Shim(layer)


def _given(call: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What goes into a layer: one argument is that argument, more are a tuple, with names a dict.

    What Keras adds by itself is left out: `training`, and the masks of inputs.
    """
    named = {
        name: value for name, value in kwargs.items()
        if value is not None and name not in ("training", "mask") and not _mask_of_another(name, call)
    }  # fmt: skip
    args = tuple(_with_tensors(arg) for arg in args)
    if named:
        return {**{str(index): arg for index, arg in enumerate(args)}, **named}
    return args[0] if len(args) == 1 else args


def _with_tensors(value: Any) -> Any:
    """Arrays as tensors: Keras makes them of the inputs of all layers but those of a functional model."""
    if isinstance(value, np.ndarray):
        return tf.convert_to_tensor(value)
    if type(value) in (tuple, list):
        return type(value)(_with_tensors(item) for item in value)
    return {key: _with_tensors(item) for key, item in value.items()} if type(value) is dict else value


def _mask_of_another(name: str, call: Callable[..., Any]) -> bool:
    code = getattr(getattr(call, "__func__", call), "__code__", None)
    return code is not None and name.endswith("_mask") and name[:-5] in code.co_varnames[: code.co_argcount]
