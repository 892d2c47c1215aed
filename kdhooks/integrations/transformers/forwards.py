"""Sees what a model gets and returns while a `Trainer` computes a loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from kdhooks.integrations.forwards import trains
from kdhooks.torch.wrappers import inside


class Seen:
    """The last forward with gradients.

    Attributes:
        args, kwargs: what the model got.
        output: what it returned.
        happened: whether there was one.
    """

    def __init__(self) -> None:
        self.args: Sequence[Any] = ()
        self.kwargs: Mapping[str, Any] = {}
        self.output: Any = None
        self.happened = False

    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        """As a forward hook."""
        if trains():
            self.args, self.kwargs, self.output, self.happened = args, kwargs, output, True


@contextmanager
def seen_forward(model: nn.Module) -> Iterator[Seen]:
    """See the forwards of a model within the block; afterwards nothing is left on it.

    The hook stands on what the loop calls: outside of a compiled graph, and where outputs are as the loss gets them.
    A loss that calls the model inside of `DistributedDataParallel` instead is seen there.
    """
    seen = Seen()
    root = inside(model)
    places = [model] if root is model or hasattr(model, "_orig_mod") else [root, model]
    handles = [place.register_forward_hook(seen, with_kwargs=True) for place in places]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()
