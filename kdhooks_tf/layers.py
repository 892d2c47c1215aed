"""The layers of a Keras model as a table: what a layer is called, what it is, what it returns."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from kdhooks.config.mappings import LayerTap
from kdhooks.errors import ModelError
from kdhooks_tf.layer_mappings import found, tensors_of
from kdhooks_tf.layer_names import Layer, named_layers
from kdhooks_tf.outputs import shape_of
from kdhooks_tf.taps import INNER
from kdhooks_tf.teacher_taps import TeacherTaps


def list_layers(model: Layer, inputs: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """One row a layer, the model first.

    Args:
        model: any Keras model; it is afterwards as it was, and built where `inputs` are given.
        inputs: positional inputs of one forward with ``training=False``; without any no shapes are known.

    Returns:
        Rows with ``layer`` (its name, as layer mappings use it; ``''`` is the model), ``type``, ``output``
        (where `inputs` are given: the shape of what its last call returned, ``-`` where it was not called, ``...``
        where it was called inside of a loop or function) and ``parameters`` (its own and those of its layers, each
        counted once).

    Raises:
        ModelError: the forward failed on these inputs.

    >>> import keras
    >>> list_layers(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")]), [tf.zeros((1, 4))])[1]
    {'layer': 'head', 'type': 'Dense', 'output': '[1, 2]', 'parameters': 10}
    """
    shapes = _output_shapes(model, inputs) if inputs else None
    rows = []
    for name, layer in named_layers(model).items():
        row: dict[str, Any] = {"layer": name or "''", "type": type(layer).__name__}
        if shapes is not None:
            row["output"] = shapes.get(name, "-")
        row["parameters"] = sum(math.prod(weight.shape) for weight in _weights(layer))
        rows.append(row)
    return rows


def list_tapped(
    model: Layer, taps: Sequence[tuple[str, LayerTap]], inputs: Sequence[Any], role: str
) -> list[dict[str, Any]]:
    """One row a tapped layer: where a configuration names it, what it is, and the shape of what is taken.

    Args:
        model: any built Keras model, or one that `inputs` build; it is afterwards as it was.
        taps: the place in the configuration, and the layer.
        inputs: positional inputs of one forward with ``training=False``; without any no shapes are known.
        role: what the model is called in errors.

    Raises:
        ModelError: there is no such layer, it did not run, its selector fits nothing, or the forward failed.

    >>> import keras
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="head")])
    >>> list_tapped(model, [("layer_mappings[0]", LayerTap("head", input=True))], [tf.zeros((3, 4))], "student")
    [{'mapping': 'layer_mappings[0]', 'layer': "'head' (its input)", 'type': 'Dense', 'shape': '[3, 4]'}]
    """
    _build(model, inputs)
    captured = TeacherTaps(model, role)
    known = [(place, found(tap, captured)) for place, tap in taps]
    layers = named_layers(model)
    captured.attach([tap.key for _, tap in known])
    try:
        if inputs:
            _forward(model, inputs, lambda: captured.run(None, *inputs, training=False))
        rows = []
        for place, tap in known:
            row = {"mapping": place, "layer": str(tap), "type": type(layers[tap.layer]).__name__}
            if inputs:
                row["shape"] = str(shape_of(tensors_of(tap, captured, "last")[0]))
            rows.append(row)
        return rows
    finally:
        captured.detach()


def example_inputs(shapes: Sequence[Sequence[int]], tokens: Sequence[Sequence[int]]) -> list[Any]:
    """Inputs of these shapes: floats from a fixed normal distribution, then token numbers 0, 1, 0, 1, ...

    The generators of the program are not drawn from.

    Raises:
        ModelError: a tensor of such a shape does not fit into memory.
    """
    generator = np.random.default_rng(0)
    try:
        floats = [generator.standard_normal(tuple(shape), dtype=np.float32) for shape in shapes]
        numbers = [np.arange(math.prod(shape), dtype=np.int32).reshape(shape) % 2 for shape in tokens]
        return [tf.constant(array) for array in (*floats, *numbers)]
    except (tf.errors.OpError, MemoryError, ValueError) as error:
        raise ModelError(f"no example input can be made: {str(error).splitlines()[0]}") from None


def _weights(layer: Layer) -> list[Any]:
    return list({id(weight): weight for weight in layer.weights}.values())


def _forward(model: Layer, inputs: Sequence[Any], run: Callable[[], Any]) -> None:
    try:
        run()
    except Exception as error:
        given = ", ".join(str(shape_of(tensor)) for tensor in inputs)
        raise ModelError(f"{type(model).__name__} failed on an input of shape {given}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What went wrong, without what Keras writes around it."""
    text = re.sub(r".*?\x1b\[1m(.*?)\x1b\[0m.*", r"\1", str(error), flags=re.DOTALL)
    return (text.strip().splitlines() or [""])[0].removesuffix(".")


def _build(model: Layer, inputs: Sequence[Any]) -> None:
    if inputs and not model.built:
        _forward(model, inputs, lambda: model(*inputs, training=False))


def _output_shapes(model: Layer, inputs: Sequence[Any]) -> dict[str, str]:
    _build(model, inputs)
    captured = TeacherTaps(model, "model")
    names = [name for name, layer in named_layers(model).items() if type(layer).__name__ != "InputLayer"]
    captured.attach([(name, False) for name in names])
    try:
        _forward(model, inputs, lambda: captured.run(None, *inputs, training=False))
        slots = {name: captured.slots[name, False] for name in names}
        return {
            name: _shape(slot.calls[-1]) if slot.calls else "..."
            for name, slot in slots.items() if slot.calls or slot.unseen == INNER
        }  # fmt: skip
    finally:
        captured.detach()


def _shape(output: Any) -> str:
    """The shapes in an output, in a few words."""
    if tf.is_tensor(output):
        return str(shape_of(output))
    values = list(output.items()) if hasattr(output, "items") else None
    if values is not None:
        inner = ", ".join(f"{key}: {_shape(value)}" for key, value in values)
        return f"{{{inner}}}"
    if isinstance(output, (tuple, list)):
        return f"({', '.join(_shape(value) for value in output)})"
    return type(output).__name__
