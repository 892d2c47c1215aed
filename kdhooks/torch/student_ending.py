"""Ends the student's forward in the built-in loop behind the deepest layer that the loss looks at.

Rules: only where nothing behind that layer can matter: the loop's own loss has weight 0, no module there has statistics
that would move, no layer is called twice, and nothing is computed once more in the backward. The first forward runs
whole and finds that out. Nobody else's forward is ended: an evaluation between two steps runs whole.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.torch.taps import ForwardHook, Key
from kdhooks.torch.transfer.freezing import stands_still
from kdhooks.torch.wrappers import find_layer

_UNWINDABLE = frozenset({"FullyShardedDataParallel", "CheckpointWrapper"})


class _Stop(BaseException):
    """Ends a forward; no `except Exception` of a model may hold it up."""


def no_loss(device: torch.device, *_: Any) -> Tensor:
    """The loop's own loss where it has weight 0: a scalar 0 that a backward may begin from."""
    return torch.zeros((), device=device, requires_grad=True)


@contextmanager
def ended_early(student: nn.Module, layers: Sequence[Key]) -> Iterator[Callable[..., Any]]:
    """Within the block gives what calls the student; it returns None where the forward was ended.

    Args:
        student: attached to, so that its layers are captured before the forward ends.
        layers: that the loss looks at, each with whether its input is meant.
    """
    if not layers or any(map(_holds_up, student.modules())):
        yield student
        return
    ending = _Ending(student, layers)
    try:
        yield ending
    finally:
        ending.end()


class _Ending:
    """Calls a student as far as a layer."""

    def __init__(self, student: nn.Module, layers: Sequence[Key]) -> None:
        self._student, self._layers = student, layers
        self._called: list[Any] = []  # layers, and None for statistics that move, in the order of a whole forward
        self._runs = self._known = False
        self._handles = [_hooked(student, key, _Called(self, key)) for key in layers]
        self._watching = [
            module.register_forward_pre_hook(_Called(self, None)) for module in student.modules() if _moves(module)
        ]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self._runs = True
        try:
            output = self._student(*args, **kwargs)
        except _Stop:
            return None
        finally:
            self._runs = False
        if not self._known:
            self._learn()
        return output

    def called(self, key: Key | None) -> None:
        """A layer of ours was called; the last one ends the forward."""
        if not self._runs:
            return
        if self._known:
            raise _Stop
        recomputed = torch._C._autograd._top_saved_tensors_default_hooks(True) is not None
        self._called += [key, key] if recomputed else [key]  # twice, as it will be

    def end(self) -> None:
        """Take everything off the student."""
        for handle in (*self._handles, *self._watching):
            handle.remove()
        self._handles, self._watching = [], []

    def _learn(self) -> None:
        """Keep one hook, on the last layer, where the forward may end there, and none otherwise."""
        self.end()
        last = self._called[-1] if self._called else None
        if last is not None and sorted(filter(None, self._called)) == sorted(self._layers):
            self._handles = [_hooked(self._student, last, _Called(self, last))]
            self._known = True
        self._called = []


class _Called(ForwardHook):
    """Before or after a module's forward."""

    def __init__(self, ending: _Ending, key: Key | None) -> None:
        self._ending, self._key = ending, key

    def __call__(self, *_: Any) -> None:
        self._ending.called(self._key)


def _holds_up(module: nn.Module) -> bool:
    """Whether a forward can't be left inside of a module: it is compiled, sharded, checkpointed, or spread."""
    if "_orig_mod" in module._modules or getattr(module, "_compiled_call_impl", None) is not None:
        return True
    if hasattr(module, "hf_device_map") or hasattr(module, "_get_fsdp_state"):
        return True
    return any(base.__name__ in _UNWINDABLE for base in type(module).__mro__)


def _hooked(student: nn.Module, key: Key, hook: _Called) -> Any:
    module = find_layer(student, key[0], "student")[1]
    return module.register_forward_pre_hook(hook) if key[1] else module.register_forward_hook(hook)


def _moves(module: nn.Module) -> bool:
    """Whether a forward in training mode writes a module's statistics."""
    floats = any(one is not None and one.is_floating_point() for one in module._buffers.values())
    return floats and not stands_still(module)
