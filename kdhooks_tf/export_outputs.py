"""What a Keras model returns, by name, as NumPy arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Tensor = Any


def named(output: Any) -> dict[str, Tensor]:
    """The tensors of an output by name, in order: ``output``, ``output_1``, keys, keys with a place behind a dot.

    Mappings go in the order of their keys, as TensorFlow has them in graphs. What is no tensor is left out.

    >>> list(named({"logits": tf.zeros(1), "hidden": (tf.zeros(1), tf.zeros(1)), "none": None}))
    ['hidden.0', 'hidden.1', 'logits']
    """
    if dataclasses.is_dataclass(output) and not isinstance(output, (type, Mapping)):
        output = {one.name: getattr(output, one.name) for one in dataclasses.fields(output)}
    if isinstance(output, (tuple, list)):
        keys = getattr(output, "_fields", [f"output_{place}" for place in range(len(output))])
        return dict(leaf for key, item in zip(keys, output, strict=True) for leaf in _leaves(item, key))
    return dict(_leaves(output, "")) if isinstance(output, Mapping) else dict(_leaves(output, "output"))


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if tf.is_tensor(value) or isinstance(value, np.ndarray):
        yield name, value
    elif isinstance(value, (tuple, list, Mapping)):
        items = sorted(value.items()) if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _leaves(item, f"{name}.{key}" if name else str(key))


def arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[Any]]:
    """Copies on the host; of bfloat16, which NumPy has not, as float32."""
    found = {}
    for name, tensor in tensors.items():
        tensor = tf.convert_to_tensor(tensor)
        found[name] = np.array((tf.cast(tensor, tf.float32) if tensor.dtype == tf.bfloat16 else tensor).numpy())
    return found
