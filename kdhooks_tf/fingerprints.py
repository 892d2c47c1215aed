"""What a teacher in Keras is known by: its weights, its configuration, its code, and what its layers compute in.

Rules: names that Keras makes up (``dense_3``) count only as the places that they stand for, since a second model of
the same kind gets other ones.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import keras
import numpy as np
import tensorflow as tf

from kdhooks.ledger.machine import processor
from kdhooks.stored.functions import function_digest, plain
from kdhooks_tf.teacher import layers_of

if TYPE_CHECKING:
    from kdhooks.cache import Weight

_PUBLISHED = {"keras": keras.__version__}
"""Packages whose classes are known by the package's version, without a look at their source."""

_OF_KERAS = frozenset(
    {
        *("autocast", "built", "call", "compiled", "history", "input_spec", "loss", "name", "optimizer", "run_eagerly"),
        *("steps_per_execution", "stop_training", "supports_jit", "supports_masking", "trainable"),
        *("predict_function", "test_function", "train_function"),
    }
)
"""Attributes that Keras gives to layers and to compiled models."""


def weights_of(model: Any) -> Iterator[Weight]:
    """All variables but states of generators, in the model's order."""
    from kdhooks.cache import Weight

    for number, variable in enumerate(model.variables):
        if not str(variable.path).endswith("seed_generator_state"):
            yield Weight(f"{number}/{variable.path.rsplit('/', 1)[-1]}", _array(variable), str(variable.dtype))


def unreadable(model: Any) -> str:
    """Why a model's weights can't be read; empty where they can."""
    if not model.built:
        return "it is not built, so it has no weights yet: call it once"
    return ""


def classes_of(model: Any) -> tuple[list[type], list[str]]:
    """The classes of a model's layers: those to know by their source, and those of published packages by version."""
    own, published = [], []
    for kind in dict.fromkeys(type(layer) for layer in layers_of(model)):
        version = _PUBLISHED.get(kind.__module__.split(".", 1)[0])
        if version is None:
            own.append(kind)
        else:
            published.append(f"{kind.__module__}.{kind.__qualname__} of keras {version}")
    return own, sorted(published)


def options_of(model: Any, policy_of: Callable[[Any], Any] = lambda layer: layer.dtype_policy) -> list[str]:
    """What changes a model's output besides weights and classes.

    That is each layer's configuration, what it computes in, and of classes that are not Keras' own the attributes that
    are numbers, texts, functions, or collections of such; those whose names begin with an underscore don't count.

    Args:
        model: which one.
        policy_of: gives a layer's dtype policy.
    """
    layers = layers_of(model)
    places = {one.name: f"#{number}" for number, one in enumerate([*layers, *_operations(layers)])}
    return [
        json.dumps([type(one).__name__, policy_of(one).name, _told(_config(one), places), _told(_own(one), places)])
        for one in layers
    ]


def _config(layer: Any) -> Any:
    try:
        return layer.get_config()
    except NotImplementedError:  # a subclassed layer with arguments that it does not tell
        return {}


def _own(layer: Any) -> dict[str, Any]:
    """The attributes of a layer of somebody's own class."""
    if type(layer).__module__.split(".", 1)[0] in _PUBLISHED:
        return {}
    found = {
        name: value
        for name, value in vars(layer).items()
        if not (name.startswith("_") or name in _OF_KERAS or callable(getattr(type(layer), name, None)))
    }  # what stands before a method is Keras' own wrapper
    functions = (keras.Layer, keras.Variable, type)
    return {
        name: value
        for name, value in found.items()
        if plain(value) is not None or (callable(value) and not isinstance(value, functions))
    }


def _operations(layers: list[Any]) -> list[Any]:
    found = [operation for layer in layers for operation in getattr(layer, "operations", ())]
    return list({id(one): one for one in found if not isinstance(one, keras.Layer)}.values())


def _told(value: Any, places: Mapping[str, str]) -> Any:
    """A configuration as plain data with places for names; functions by what they do, other objects by their class."""
    if isinstance(value, Mapping):
        told = {places.get(str(key), str(key)): _told(item, places) for key, item in value.items()}
        return {key: told[key] for key in sorted(told) if key not in ("name", "seed", "dtype", "registered_name")}
    if isinstance(value, (list, tuple)):
        return [_told(item, places) for item in value]
    if isinstance(value, str):
        return places.get(value, value)
    if isinstance(value, (bool, int, float, type(None))):
        return value
    if isinstance(value, (np.ndarray, np.generic, tf.Tensor)):
        return np.asarray(value).tolist()
    if callable(value) and not isinstance(value, (type, keras.Layer)):
        return function_digest(value)
    return type(value).__qualname__


def _array(variable: Any) -> Any:
    value = variable.value
    if isinstance(value, tf.distribute.DistributedValues):
        value = value.values[0]
    return np.asarray(value.numpy())


def processor_names() -> str:
    """What this program computes on."""
    gpus = tf.config.list_physical_devices("GPU")
    names = [str(tf.config.experimental.get_device_details(one).get("device_name", "GPU")) for one in gpus]
    return ", ".join(names) or processor()
