"""A teacher's forward, compiled as a function of ours: nothing is left on the module."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import nn

from kdhooks.errors import ModelError


class Compiled:
    """A model's forward, whole and without its output, each compiled at its first call.

    Args:
        model: is called by the compiled functions, with the hooks that stand on it then.
    """

    def __init__(self, model: nn.Module) -> None:
        self._kind = type(model).__name__

        def whole(*args: Any, **kwargs: Any) -> Any:
            return model(*args, **kwargs)

        def without_output(*args: Any, **kwargs: Any) -> None:
            model(*args, **kwargs)

        self._whole, self._without_output = _compiled(whole), _compiled(without_output)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's output."""
        return self._called(self._whole, args, kwargs)

    def without_output(self, *args: Any, **kwargs: Any) -> None:
        """Run for what hooks capture; what nobody looks at is no part of the graph."""
        self._called(self._without_output, args, kwargs)

    def _called(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        from torch._dynamo.exc import TorchDynamoException  # loaded by the compilation anyway

        try:
            return function(*args, **kwargs)
        except TorchDynamoException as error:
            reason = str(error).strip().splitlines()[0]
            raise ModelError(
                f"the teacher {self._kind} can't be compiled: {reason}. Write compile: false in distillation.teacher"
            ) from error


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function, compiled; torch files its graphs by code object, so each gets one of its own."""
    own = FunctionType(
        function.__code__.replace(co_name=f"teacher_{function.__name__}"),
        function.__globals__,
        function.__name__,
        None,
        function.__closure__,
    )
    return torch.compile(own)
