"""The random generators of a program: Python's, NumPy's, TensorFlow's and Keras' own.

Rules: reading a state makes no generator that wasn't there, and draws nothing. What TensorFlow and Keras keep to
themselves is looked for where it stands in the releases that we know, and left alone elsewhere. The generators inside
of a model's layers, of dropout for example, are variables of the model, and are saved with it.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np
import tensorflow as tf


def state() -> dict[str, Any]:
    """The states of all generators, as plain data and NumPy arrays."""
    version, numbers, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    found: dict[str, Any] = {
        "python": [version, list(numbers), gauss],
        "numpy": [kind, np.array(keys), position, has_gauss, cached],
    }
    operations = _operation_seeds()
    if operations is not None:
        version, numbers, gauss = operations.getstate()
        found["tensorflow_operations"] = [version, list(numbers), gauss]
    for name, variable in _variables().items():
        found[name] = variable.numpy()
    return found


def put_state(saved: Mapping[str, Any]) -> None:
    """Put states back; a generator that this program lacks is left alone."""
    version, numbers, gauss = saved["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, keys, position, has_gauss, cached = saved["numpy"]
    np.random.set_state((kind, np.asarray(keys, np.uint32), position, has_gauss, cached))
    operations = _operation_seeds()
    if operations is not None and "tensorflow_operations" in saved:
        version, numbers, gauss = saved["tensorflow_operations"]
        if operations.getstate() != (version, tuple(numbers), gauss):
            _forget_streams()
            _operation_seeds().setstate((version, tuple(numbers), gauss))  # type: ignore[union-attr]
    for name, variable in _variables().items():
        if name in saved and tuple(np.shape(saved[name])) == tuple(variable.shape):
            variable.assign(saved[name])


@contextmanager
def untouched() -> Iterator[None]:
    """Whatever is drawn within the block is given back afterwards."""
    before = state()
    try:
        yield
    finally:
        put_state(before)


def _operation_seeds() -> random.Random | None:
    """What gives eager operations their seeds once `tf.random.set_seed` was called."""
    try:
        from tensorflow.python.eager.context import context, global_seed
    except ImportError:
        return None
    found = getattr(context(), "_rng", None) if global_seed() is not None else None
    return found if isinstance(found, random.Random) else None


def _forget_streams() -> None:
    """Let operations whose seeds come again begin again: TensorFlow keeps each with how far it has drawn."""
    from tensorflow.python.eager.context import global_seed

    tf.random.set_seed(global_seed())


def _variables() -> dict[str, Any]:
    """The states of the generators that are there and have a variable."""
    found = {}
    try:
        from tensorflow.python.ops import stateful_random_ops

        generator = stateful_random_ops.global_generator
    except (ImportError, AttributeError):
        generator = None
    if isinstance(generator, tf.random.Generator):
        found["tensorflow"] = generator.state
    try:
        from keras.src.backend.common import global_state
        from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR

        seeds = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR)
    except ImportError:
        seeds = None
    if isinstance(seeds, keras.random.SeedGenerator):
        found["keras"] = seeds.state.value
    return found
