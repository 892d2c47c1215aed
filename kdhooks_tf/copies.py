"""Copies of a model and of its weights: true ones, that share no variable with it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import keras
import numpy as np

from kdhooks.errors import ModelError
from kdhooks_tf.generators import untouched

_SAVEABLE: Any = next((base for base in keras.Layer.__mro__ if base.__name__ == "KerasSaveable"), keras.Layer)
"""The base of all that Keras saves; its place is Keras' own affair."""

_LEFT_OUT = ("train_function", "test_function", "predict_function", "optimizer")
"""Attributes that are None in a copy: what was traced, and the optimizer."""


def weights_of(model: Any) -> dict[str, Any]:
    """A model's weights as NumPy arrays of their own, by the paths of the variables.

    Where two variables have one path, the later ones are called ``path#2``, ``path#3``, ...
    """
    return {name: np.array(weight.numpy()) for name, weight in _named(model).items()}


def put_weights(model: Any, weights: Mapping[str, Any]) -> None:
    """Put weights that `weights_of` gave into a model of the same architecture, by path or else in their order.

    Raises:
        ModelError: other weights than the model has.
    """
    named = _named(model)
    arrays = [weights[name] for name in named] if set(named) == set(weights) else list(weights.values())
    mine, theirs = [tuple(one.shape) for one in named.values()], [tuple(np.shape(one)) for one in arrays]
    if mine != theirs:
        raise ModelError(f"the weights are of another model than this {type(model).__name__}")
    for weight, array in zip(named.values(), arrays, strict=True):
        weight.assign(array)


def copied(model: Any, weights: Mapping[str, Any]) -> Any:
    """A new model like this one with these weights.

    A functional or Sequential model is cloned, a subclassed one made from its configuration; a model without one is
    copied attribute by attribute.

    Raises:
        ModelError: the model can't be copied in any of these ways.
    """
    with untouched():  # new weights are drawn, and then replaced
        twin = _from_configuration(model)
        if twin is None or len(twin.weights) != len(model.weights):
            try:
                twin = _duplicate(model, {})
            except Exception as error:
                message = f"the {type(model).__name__} can't be copied: {error}. Give it a get_config()"
                raise ModelError(message) from error
    put_weights(twin, weights)
    return twin


def _named(model: Any) -> dict[str, Any]:
    named: dict[str, Any] = {}
    counts: dict[str, int] = {}
    for weight in model.weights:
        count = counts[weight.path] = counts.get(weight.path, 0) + 1
        named[weight.path if count == 1 else f"{weight.path}#{count}"] = weight
    return named


def _from_configuration(model: Any) -> Any:
    try:
        twin = type(model).from_config(model.get_config())
        if not twin.built and model.built:
            twin.build_from_config(model.get_build_config())
    except Exception:  # whatever a user's constructor has against its configuration: there is another way
        return None
    return twin


def _is_plain(value: Any) -> bool:
    """Whether an object is nothing but its attributes, which may be layers: what Keras tracks them with is."""
    kind: Any = type(value)
    custom = any(getattr(kind, name) is not getattr(object, name) for name in ("__reduce__", "__reduce_ex__"))
    return hasattr(value, "__dict__") and not (custom or hasattr(kind, "__deepcopy__") or callable(value))


def _duplicate(value: Any, memo: dict[int, Any]) -> Any:
    """A copy of an object with its layers and variables, not by way of a saved file as Keras' own pickling goes."""
    if id(value) in memo or isinstance(value, ModuleType):
        return memo.get(id(value), value)
    if isinstance(value, tuple):
        items = [_duplicate(item, memo) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, (list, dict, set)):
        return _filled(value, memo)
    if isinstance(value, (_SAVEABLE, keras.Variable)) or _is_plain(value):
        twin = memo[id(value)] = object.__new__(type(value))
        for name, item in vars(value).items():
            if not (callable(item) and hasattr(type(value), name)):  # what stands before a method is the original's
                twin.__dict__[name] = None if name in _LEFT_OUT else _duplicate(item, memo)
        return twin
    return copy.deepcopy(value, memo)


def _filled(value: Any, memo: dict[int, Any]) -> Any:
    """A list, mapping or set with copies in it; Keras' own kinds tell their owner of what is put in, and have it."""
    kind: Any = type(value)
    twin = memo[id(value)] = kind.__new__(kind)
    if isinstance(value, dict):
        dict.update(twin, {key: _duplicate(item, memo) for key, item in value.items()})
    elif isinstance(value, set):
        set.update(twin, {_duplicate(item, memo) for item in value})
    else:
        list.extend(twin, [_duplicate(item, memo) for item in value])
    for name, item in getattr(value, "__dict__", {}).items():
        twin.__dict__[name] = _duplicate(item, memo)
    return twin
