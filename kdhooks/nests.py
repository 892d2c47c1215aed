"""Nests of tuples, lists and mappings, as models take and return them, apart from any framework."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any


def is_array(value: Any) -> bool:
    """Whether a value is an array or a tensor: it has a shape and a dtype."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


def arrays_in(value: Any) -> Iterator[Any]:
    """The arrays of a nest, but those without axes."""
    if is_array(value):
        if len(value.shape):
            yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from arrays_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from arrays_in(item)


def map_leaves(is_leaf: Callable[[Any], bool], function: Callable[[Any], Any], value: Any) -> Any:
    """The same nest with a function applied to each leaf; what is neither a leaf nor a nest stays as it is.

    >>> map_leaves(lambda item: isinstance(item, int), lambda item: item + 1, {"a": [1, (2, "text")]})
    {'a': [2, (3, 'text')]}
    """
    if is_leaf(value):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_leaves(is_leaf, function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_leaves(is_leaf, function, item) for item in value))
    if isinstance(value, (tuple, list)):
        return type(value)(map_leaves(is_leaf, function, item) for item in value)
    return value
