"""Names of a Keras model's weights for transfer: the layer's own name and the variable's, ``block/conv/kernel``.

Rules: a name that Keras made up (``dense_7``) counts in a whole process, so two models of one architecture would share
none. Such names count anew within their parent here: the second `Dense` of a `Sequential` is ``dense_1`` in every
model. Names that an author gave, and attributes of subclassed models, stay as they are.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import keras

from kdhooks_tf.layer_names import Layer, children

Variable = Any


def named_weights(model: Layer) -> dict[str, Variable]:
    """Every weight of a built model by its name; a shared layer's by its first name.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3), keras.layers.Dense(1, name="head")])
    >>> list(named_weights(model))
    ['dense/kernel', 'dense/bias', 'head/kernel', 'head/bias']
    """
    named: dict[str, Variable] = {}
    seen: set[int] = set()
    for path, layer in counted_layers(model).items():
        for variable in own_variables(layer):
            if id(variable) not in seen:
                seen.add(id(variable))
                named[_free(f"{path}/{variable.name}".lstrip("/"), named)] = variable
    return named


def counted_layers(model: Layer) -> dict[str, Layer]:
    """Every layer by its name, the model first; made-up names count within their parent."""
    layers: dict[str, Layer] = {"": model}
    layers.update(_below(model, "", (id(model),)))
    return layers


def own_variables(layer: Layer) -> list[Variable]:
    """The weights that a layer holds itself, in the order in which Keras saves them."""
    return [*layer._trainable_variables, *layer._non_trainable_variables]


def is_made_up(name: str, kind: str) -> bool:
    """Whether a name is what Keras calls a layer of this class in snake case, with or without a number.

    >>> is_made_up("dense_12", "dense"), is_made_up("dense_head", "dense")
    (True, False)
    """
    return re.fullmatch(rf"{re.escape(kind)}(_\d+)?", name) is not None


@functools.cache
def made_up_names() -> frozenset[str]:
    """The names, without a number, that Keras makes up for layers of its own classes."""
    kinds = (getattr(keras.layers, name) for name in dir(keras.layers))
    return frozenset(_snake(kind.__name__) for kind in kinds if isinstance(kind, type))


def _below(layer: Layer, prefix: str, above: tuple[int, ...]) -> Iterator[tuple[str, Layer]]:
    counts: dict[str, int] = {}
    taken: set[str] = set()
    for names, child in children(layer):
        kind = _snake(type(child).__name__)
        count = counts[kind] = counts.get(kind, -1) + 1
        made_up = names[0] == child.name and is_made_up(names[0], kind)
        own = (f"{kind}_{count}" if count else kind) if made_up else names[0]
        if id(child) not in above and own not in taken:
            taken.add(own)
            yield prefix + own, child
            yield from _below(child, f"{prefix}{own}/", (*above, id(child)))


def _snake(name: str) -> str:
    """A class's name as Keras writes it: ``Conv2D`` is ``conv2d``."""
    name = re.sub(r"\W+", "", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def _free(name: str, taken: dict[str, Variable]) -> str:
    """The name, or with a number where a layer has two weights of one name."""
    number = 1
    free = name
    while free in taken:
        number += 1
        free = f"{name}#{number}"
    return free


def guessed_names(layer: str, shapes: list[tuple[int, ...]]) -> list[str]:
    """What Keras calls the variables of a layer of which only the shapes are known; numbers where that is not clear.

    >>> guessed_names("conv", [(3, 3, 1, 8), (8,)]), guessed_names("norm", [(8,)] * 4)[2:]
    (['kernel', 'bias'], ['moving_mean', 'moving_variance'])
    """
    axes = [len(shape) for shape in shapes]
    last = layer.rsplit("/", 1)[-1]
    if axes == [1, 1, 1, 1]:
        return ["gamma", "beta", "moving_mean", "moving_variance"]
    if axes == [1, 1]:
        return ["gamma", "beta"]
    if len(axes) == 3 and axes[:2] == [2, 2]:
        return ["kernel", "recurrent_kernel", "bias"]
    if axes == [4, 4, 1]:
        return ["depthwise_kernel", "pointwise_kernel", "bias"]
    if len(axes) == 2 and axes[0] > axes[1]:
        return ["kernel", "bias"]
    if len(axes) == 1 and axes[0] > 1:
        return ["embeddings" if last.startswith("embedding") else "kernel"]
    return [str(number) for number in range(len(shapes))]
