"""Captures a teacher's layers, and ends its forward where nothing behind is wanted."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from kdhooks.messages import logger
from kdhooks.torch.sharding import sharded_modules
from kdhooks.torch.taps import Key, Slot, Taps, copied
from kdhooks.torch.teacher_compile import Compiled
from kdhooks.torch.wrappers import something_was_traced


class _Stop(BaseException):
    """Ends a forward at its deepest tapped layer; no `except Exception` of a model may hold it up."""


class TeacherTaps(Taps):
    """The captures of a teacher, whose forward may end at the deepest layer that is wanted.

    The first forward runs whole, to learn in which order layers are called and how often. A compiled teacher is
    compiled once more without its output: what lies behind the deepest layer is then no part of its graph.

    Attributes:
        listening: whether a forward of ours is under way.
        compiled: what runs in place of the model, where we have compiled it.
    """

    def __init__(self, model: nn.Module, role: str = "teacher") -> None:
        super().__init__(model, role)
        self.listening = False
        self.compiled: Compiled | None = None
        self._wanted: frozenset[Key] | None = None
        self._order: list[Key] = []
        self._learned: list[Key] = []
        self._stop: tuple[Key, int] | None = None
        self._ends_early = True
        self._compiled: Any = None
        self._sharded: list[Any] = []

    def attach(self, keys: Iterable[Key]) -> None:
        """Put hooks on layers."""
        super().attach(keys)
        self._learned = []
        self._look_for_shards()
        if not self._ends_early:
            logger.info("the %s %s is sharded by flat parameters: its forward runs whole", self.role, self.kind)
        if "_orig_mod" in self.model._modules:
            optimized: Any = self.model
            self._compiled = optimized.dynamo_ctx(_OutputDropped(self.root))

    def stand_on(self, model: nn.Module) -> None:
        """Move all hooks to another model with the same layers."""
        if model is not self.model:
            super().stand_on(model)
            self._look_for_shards()

    def _look_for_shards(self) -> None:
        kinds = {base.__name__ for module in self.model.modules() for base in type(module).__mro__}
        self._sharded = sharded_modules(self.model)
        self._ends_early = "FullyShardedDataParallel" not in kinds

    def detach(self) -> None:
        """Take every hook off."""
        super().detach()
        self._compiled = None

    def recording(self) -> bool:
        """Only in forwards that we asked for."""
        return self.listening

    def keep(self, slot: Slot, value: Any) -> None:
        """Take the value of one call; ends the forward at the last one that is wanted."""
        if not self.listening:
            return
        wanted = self._wanted is None or slot.key in self._wanted
        if torch.compiler.is_compiling():
            if wanted:
                slot.calls.append(copied(value))
            return
        self._order.append(slot.key)
        if wanted:
            slot.keep(value)
        if self._stop is not None and self._stop[0] == slot.key and self._stop[1] == len(slot.calls):
            raise _Stop

    def run(self, layers: frozenset[Key] | None, /, *args: Any, **kwargs: Any) -> Any:
        """Call the model and capture from it.

        Args:
            layers: those that are looked at, where the output is not wanted; None runs the model whole.
            args: of the model.
            kwargs: of the model.

        Returns:
            The model's output, or None where its forward was ended.
        """
        self.begin()
        self._order, self._wanted, self._stop = [], layers, None
        model: Any = self.compiled or self.model
        if layers is not None and self._ends_early:
            self._stop = self._last_of(layers)
            if self.compiled is not None:
                model = self.compiled.without_output
            elif self._compiled is not None:
                model = self._compiled
        self.listening = True
        try:
            output = model(*args, **kwargs)
        except _Stop:
            self._close_shards()
            return None
        finally:
            self.listening = self.inside = False
            self._stop = self._wanted = None
        self._learned = self._order
        return output

    def order(self) -> list[Key]:
        """The layers that the last whole forward called, in the order of their last calls."""
        return list(dict.fromkeys(reversed(self._learned)))[::-1]

    def _trace_again(self, what: str) -> None:
        """Hooks come or go: graphs that torch files below the model's own functions have them, or lack them."""
        if self.compiled is not None and something_was_traced():
            torch.compiler.reset()
        else:
            super()._trace_again(what)

    def _close_shards(self) -> None:
        """End the forward of modules under `fully_shard` that were left in its middle, the inner ones first."""
        for module in reversed(self._sharded):
            state = module._get_fsdp_state()
            if state._training_state.name == "FORWARD":
                state._post_forward(module, (), None)
            getattr(state, "_modules_to_run_forward", set()).clear()  # of a list that was sharded as one

    def _last_of(self, wanted: frozenset[Key]) -> tuple[Key, int] | None:
        """The last call of a wanted layer that a whole forward had, and its number among that layer's calls."""
        if not wanted or not wanted <= set(self._learned):  # a layer that did not run: its reader says so
            return None
        last = max(index for index, key in enumerate(self._learned) if key in wanted)
        key = self._learned[last]
        return key, self._learned[: last + 1].count(key)


class _OutputDropped:
    """A model's forward without its output."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._model(*args, **kwargs)
