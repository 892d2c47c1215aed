"""A teacher's forward as a function of its own, for loops that run eagerly, and for XLA.

Rules: what the taps capture comes out of the function beside the teacher's output, and goes back into them outside of
it, so whoever reads the taps sees no difference. Where nothing but layers is looked at, the function has no other
output, and TensorFlow leaves out what stands behind them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from kdhooks.errors import ModelError
from kdhooks.messages import logger

Forward = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""(the layers that are looked at, or None for the output; args; kwargs) -> the output."""


class OwnFunction:
    """The forward in a ``tf.function``, made anew for each set of layers that is looked at.

    Args:
        forward: what is traced; it runs the teacher through its taps where there are some.
        kind: the teacher's class, for errors.
        compile: whether XLA compiles it.
    """

    def __init__(self, forward: Forward, kind: str, *, compile: bool = False) -> None:
        self._forward, self._kind, self._compile = forward, kind, compile
        self._functions: dict[Any, tuple[Any, dict[Any, str]]] = {}
        self._eager = False

    def __call__(self, taps: Any, layers: frozenset[Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The teacher's output; what was captured is in the taps.

        Raises:
            ModelError: it can't be compiled.
        """
        if self._eager:
            return self._forward(layers, args, kwargs)
        key = layers, () if taps is None else tuple(taps.slots)
        first = key not in self._functions
        if first:
            self._functions[key] = self._made(taps, layers)
        function, unseen = self._functions[key]
        try:
            output, captured = function(args, kwargs)
        except Exception as error:
            if not first:
                raise
            return self._without(layers, args, kwargs, error)
        if taps is not None:
            taps.put(captured, unseen)
        return output

    def _made(self, taps: Any, layers: frozenset[Any] | None) -> tuple[Any, dict[Any, str]]:
        unseen: dict[Any, str] = {}

        def forward(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            output = self._forward(layers, args, kwargs)
            captured, silent = ([], {}) if taps is None else taps.take()
            unseen.update(silent)
            return None if layers is not None else output, captured

        function = tf.function(
            forward, autograph=False, reduce_retracing=True, jit_compile=True if self._compile else None
        )
        return function, unseen

    def _without(self, layers: Any, args: Any, kwargs: Any, error: Exception) -> Any:
        """What a teacher says that can't be traced: it runs eagerly. One that can't be compiled is an error."""
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if tf.inside_function():
            raise error
        output = self._forward(layers, args, kwargs)  # what is wrong with the input is wrong here as well
        if self._compile:
            raise ModelError(
                f"the teacher {self._kind} can't be compiled by XLA: {reason}. Leave distillation.teacher.compile out"
            ) from error
        logger.warning("the teacher %s can't be traced, so it runs eagerly, which is slower: %s", self._kind, reason)
        self._eager = True
        return output
