"""Inputs and outputs of models, in the forms that people's models have."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from kdhooks.errors import ModelError
from kdhooks.nests import map_leaves

Tensor = Any


def logits_of(output: Any, keys: Sequence[str] = (), *, model: str = "student", from_logits: bool = True) -> Tensor:
    """The logits in a model's output: a tensor, a tuple, a mapping, or an object with ``.logits``.

    Args:
        output: what the model returned.
        keys: names to look for first, in a mapping or among the attributes (``model.outputs``).
        model: names the model in errors.
        from_logits: False where the output holds probabilities: their clipped logarithms are logits.

    Returns:
        Logits of shape [N, C], [N, T, C], [N, H, W, C], ...; of a tuple the first tensor with at
        least two axes, since some models put their loss, a scalar, in front.

    Raises:
        ModelError: nothing in the output can be logits.
    """
    found = tensor_of(output, keys, model=model)
    return found if from_logits else log_probabilities(found)


def tensor_of(output: Any, keys: Sequence[str] = (), *, model: str = "student") -> Tensor:
    """The very tensor in a model's output that holds its logits, or its probabilities; see `logits_of`."""
    if tf.is_tensor(output):
        return output
    for key in (*keys, "logits"):
        found = output.get(key) if isinstance(output, Mapping) else getattr(output, key, None)
        if tf.is_tensor(found):
            return found
    if not keys:
        values = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
        for value in values:
            if tf.is_tensor(value) and (value.shape.rank is None or value.shape.rank >= 2):
                return value
    wanted = f" named {' or '.join(repr(key) for key in keys)}" if keys else ""
    raise ModelError(f"the {model} returned {describe(output)}, in which there are no logits{wanted}")


def log_probabilities(probabilities: Tensor) -> Tensor:
    """Log p, which is a set of logits: softmax(log p / T) is what softmax(z / T) is, whatever z gave p.

    Half precision is widened to float32, and p clipped from below to the smallest normal number, so that a
    probability that rounded to 0 has a finite logarithm and no gradient.
    """
    if probabilities.dtype in (tf.float16, tf.bfloat16):
        probabilities = tf.cast(probabilities, tf.float32)
    tiny = probabilities.dtype.as_numpy_dtype(2.0 ** (-1022 if probabilities.dtype == tf.float64 else -126))
    return tf.math.log(tf.clip_by_value(probabilities, tiny, 1.0))


def describe(value: Any) -> str:
    """What a value is, in a few words for an error message."""
    if tf.is_tensor(value):
        return f"a tensor of shape {shape_of(value)}"
    if isinstance(value, Mapping):
        return f"a mapping with the keys {', '.join(map(repr, value)) or '(none)'}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {', '.join(type(item).__name__ for item in value) or 'nothing'}"
    return f"a {type(value).__name__}"


def shape_of(tensor: Tensor) -> list[int | None] | None:
    """A tensor's shape as far as it is known, None where not even the number of axes is."""
    return None if tensor.shape.rank is None else tensor.shape.as_list()


def as_call(model: Any, value: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """How an input is passed on to a Keras model.

    Functional and Sequential models take one argument, whatever its structure; one with a single input that has no
    name of its own takes the only value of a mapping. A subclassed model gets a list or tuple as positional arguments
    and a mapping as keyword arguments where its `call` has such; otherwise it takes one argument as well.
    """
    if not isinstance(value, (Mapping, list, tuple)) or takes_structure(model):
        alone = isinstance(value, Mapping) and len(value) == 1 and _takes_one_tensor(model)
        return (next(iter(value.values())) if alone else value,), {}
    parameters = inspect.signature(_call_of(model)).parameters.values()
    named = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    if isinstance(value, Mapping):
        catches_all = any(p.kind is p.VAR_KEYWORD for p in parameters) and not named
        return ((), dict(value)) if catches_all or set(value) <= set(named) else ((value,), {})
    placed = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    room = len([name for name in placed if name not in ("training", "mask")])
    if len(value) == 1 or any(p.kind is p.VAR_POSITIONAL for p in parameters) or 1 < len(value) <= room:
        return tuple(value), {}
    return (value,), {}


def takes_structure(model: Any) -> bool:
    """Whether a model's one argument may be a list or mapping of tensors: Functional and Sequential models."""
    functional = getattr(keras.src.models, "Functional", ()) if hasattr(keras, "src") else ()
    return isinstance(model, (keras.Sequential, functional))


def _takes_one_tensor(model: Any) -> bool:
    return isinstance(model, keras.Sequential) or isinstance(getattr(model, "input", None), keras.KerasTensor)


def _call_of(model: Any) -> Callable[..., Any]:
    call: Callable[..., Any] = type(model).call.__get__(model)  # the class's own, whatever stands in the instance
    return call


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same nest of tuples, lists and mappings with a function applied to each tensor."""
    return map_leaves(tf.is_tensor, function, value)


def tensors_of_nest(value: Any) -> list[Tensor]:
    """The tensors of a nest, in the order in which `map_tensors` comes to them (`tf.nest` sorts mappings)."""
    found: list[Tensor] = []
    map_tensors(found.append, value)
    return found


def constant(tensor: Tensor) -> Tensor:
    """A tensor through which no gradient flows."""
    return tf.stop_gradient(tensor)
