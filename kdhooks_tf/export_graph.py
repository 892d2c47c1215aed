"""Graphs of a Keras model for serving: what inputs they take, and the SavedModel that holds them.

Rules: a SavedModel has the endpoint ``serve``, called with one argument in the form of the example inputs, and the
signature ``serving_default``, called with each tensor by its name, as servers do.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdhooks.errors import UsageError
from kdhooks.measurement import rows_in
from kdhooks.nests import map_leaves
from kdhooks_tf.export_outputs import named
from kdhooks_tf.outputs import as_call, takes_structure, tensors_of_nest

Tensor = Any


def example_inputs(model: Any) -> Any:
    """Two rows of what a functional or Sequential model says that it takes; None where that is not known."""
    if not takes_structure(model) or not getattr(model, "inputs", None):
        return None
    inputs = model.inputs[0] if isinstance(model, keras.Sequential) else model.input
    leaves = [one for one in model.inputs if None in tuple(one.shape)[1:] or one.shape[0] not in (None, 2)]
    if leaves:
        return None
    generator = np.random.default_rng(0)
    return map_leaves(lambda leaf: hasattr(leaf, "shape"), lambda leaf: _example(leaf, generator), inputs)


def _example(leaf: Any, generator: Any) -> Tensor:
    shape = (2, *leaf.shape[1:])
    dtype = tf.as_dtype(leaf.dtype)
    if dtype.is_floating:
        return tf.cast(tf.constant(generator.standard_normal(shape)), dtype)
    return tf.cast(tf.constant(np.arange(int(np.prod(shape))).reshape(shape) % 2), dtype)


class Served:
    """The forward of a model as functions of tensors.

    Args:
        model: a clean copy.
        inputs: example inputs, tensors.
        dynamic_batch: whether the first axis of tensors with as many rows as the first may have any length.
        length: that of the second axis of token inputs where it may vary, or None.

    Attributes:
        model: the copy.
        specs: of the input tensors by name, in order.
    """

    def __init__(self, model: Any, inputs: Any, dynamic_batch: bool, length: int | None) -> None:
        self.model = model
        self._rows = rows_in(inputs) if dynamic_batch else None
        self._length = length
        self._nest = inputs
        names = _names(model, inputs)
        self.specs = {name: self._spec(leaf, name) for name, leaf in zip(names, tensors_of_nest(inputs), strict=True)}

    def by_name(self, inputs: Any) -> dict[str, Tensor]:
        """The tensors of inputs by name."""
        return dict(zip(self.specs, tensors_of_nest(inputs), strict=True))

    def forward(self, inputs: Any) -> Any:
        """The model's output."""
        args, kwargs = as_call(self.model, inputs)
        return self.model(*args, **kwargs, training=False)

    def flat(self) -> Callable[..., dict[str, Tensor]]:
        """The outputs by name, as a function of the input tensors in order."""

        def function(*tensors: Tensor) -> dict[str, Tensor]:
            left = iter(tensors)
            return named(self.forward(map_leaves(tf.is_tensor, lambda _: next(left), self._nest)))

        return function

    def save(self, path: Path) -> None:
        """Write a SavedModel."""
        root = tf.Module()
        root.weights = [variable.value for variable in self.model.variables]
        specs = iter(self.specs.values())
        signature = map_leaves(tf.is_tensor, lambda _: next(specs), self._nest)
        root.serve = tf.function(self.forward, input_signature=[signature], autograph=False)
        flat = self.flat()

        def serving_default(**tensors: Tensor) -> dict[str, Tensor]:
            return {_word(name): value for name, value in flat(*(tensors[name] for name in self.specs)).items()}

        by_name = tf.function(serving_default, autograph=False).get_concrete_function(**self.specs)
        root.serve.get_concrete_function(signature)
        tf.saved_model.save(root, str(path), signatures={"serving_default": by_name})

    def _spec(self, leaf: Tensor, name: str) -> Any:
        shape: list[int | None] = list(leaf.shape)
        if shape and shape[0] == self._rows:
            shape[0] = None
        if len(shape) > 1 and self._length is not None and shape[1] == self._length:
            shape[1] = None
        return tf.TensorSpec(shape, leaf.dtype, name=name)


def length_of(inputs: Any) -> int:
    """The length of token inputs: the second axis of the first input of integers.

    Raises:
        UsageError: there is no such input.
    """
    for leaf in tensors_of_nest(inputs):
        if leaf.shape.rank >= 2 and leaf.dtype.is_integer:
            return int(leaf.shape[1])
    raise UsageError("dynamic_length is for token inputs, and no input is of integers with two axes or more")


def _names(model: Any, inputs: Any) -> list[str]:
    """Names of the input tensors: keys, what Keras calls them, or the parameters of ``call``."""
    leaves = tensors_of_nest(inputs)
    if isinstance(inputs, Mapping) and all(tf.is_tensor(value) for value in inputs.values()):
        return [_word(str(key)) for key in inputs]
    if takes_structure(model) and len(model.inputs) == len(leaves):
        return _unlike([_word(one.name) for one in model.inputs])
    parameters = [
        one.name for one in inspect.signature(type(model).call).parameters.values()
        if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD) and one.name not in ("self", "training", "mask")
    ]  # fmt: skip
    if len(parameters) >= len(leaves) and (len(leaves) == 1 or len(as_call(model, inputs)[0]) == len(leaves)):
        return [_word(name) for name in parameters[: len(leaves)]]
    return [f"input_{place}" for place in range(len(leaves))]


def _unlike(names: Sequence[str]) -> list[str]:
    return list(names) if len(set(names)) == len(names) else [f"input_{place}" for place in range(len(names))]


def _word(name: str) -> str:
    """A name that TensorFlow takes for a keyword."""
    return re.sub(r"\W", "_", name)
