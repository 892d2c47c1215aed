"""Methods of one model replaced for a while, through its ``__dict__``: Keras tracks nothing of it and saves nothing."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

Method = Callable[..., Any]


class Shims:
    """Methods put before a model's own ones, on this one instance.

    Args:
        model: any object with a ``__dict__``; its class is never touched.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._before: dict[str, Any] = {}
        self._put: dict[str, Any] = {}

    def put(self, name: str, make: Callable[[Method], Method]) -> None:
        """Replace a method by ``make(original)``; the original is bound, the user's own override included."""
        attributes = self._model.__dict__
        original = getattr(self._model, name)
        if name in attributes:
            self._before[name] = attributes[name]
        shim = make(original)
        functools.update_wrapper(shim, original, updated=())
        self._put[name] = attributes[name] = shim

    def remove(self) -> None:
        """Put back what was there; what somebody replaced after us stays."""
        attributes = self._model.__dict__
        for name, shim in self._put.items():
            if attributes.get(name) is shim:
                del attributes[name]
                if name in self._before:
                    attributes[name] = self._before[name]
        self._put, self._before = {}, {}
