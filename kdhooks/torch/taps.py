"""Captures what goes through named layers, once a step, for all terms that look at it.

Rules: hooks stand on the tapped modules of the one model that was attached, and one on its root, which begins
a new capture; so however many forwards there are between two losses, one forward's values are held. A copy or a
pickle of the model carries no working hook. Nothing is captured while gradients are off (an evaluation, a
teacher that shares modules) or inside of a backward (recomputation under checkpointing). What a later
operation would overwrite in place is copied before it can.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from kdhooks.errors import ModelError
from kdhooks.messages import logger
from kdhooks.torch.sharding import author_class
from kdhooks.torch.wrappers import compiled_parts, find_layer, inside, something_was_traced

Key = tuple[str, bool]
"""A layer's name, and whether its input is meant."""


class Slot:
    """What was captured at one layer.

    Attributes:
        key: the layer, and whether its input is meant.
        calls: one value for each call of the layer in the last forward.
        keeps_edges: whether the places of its values in the graph are kept.
        edges: these places in the last forward; what is written over a value later changes none of them.
        copies: whether values are copied, since a later operation writes over them; None before that is known.
        unseen: whether the layer ran where nothing can be captured, under reentrant checkpointing.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        self.calls: list[Any] = []
        self.unseen = False
        self.keeps_edges = False
        self.edges: list[Any] = []
        self.copies: bool | None = None  # not known yet, so copies are kept beside the originals
        self._watched: list[tuple[Tensor, int]] = []
        self._held: list[Tensor] = []

    def keep(self, value: Any) -> None:
        """Take the value of one call."""
        self._held = []
        if self.keeps_edges:
            self.edges += [get_gradient_edge(tensor) for tensor in _tensors(value) if tensor.requires_grad]
        if self.copies is None or self.copies:
            if self.copies is None:
                self._watch(_tensors(value))
            value = copied(value)
        self.calls.append(value)

    def read(self) -> list[Any]:
        """The values; finds out whether a later operation writes over them."""
        if self.copies is None and self.calls:
            self.copies = any(tensor._version != version for tensor, version in self._watched)
            self._watched = []
        return self.calls

    def _watch(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            if tensor.is_inference():  # it counts no writes, so it is always copied
                self.copies, self._watched = True, []
                return
            self._watched.append((tensor, tensor._version))

    def clear(self) -> None:
        """Let go of the values and their graph; on the CPU their memory is kept until the layer's next call.

        Freed all at once, features of many megabytes are given back to the system by the C library, and each of their
        pages is faulted in again at the next step: up to a third of a step's time.
        """
        if self.calls:
            tensors = [tensor for value in self.calls for tensor in _tensors(value)]
            self._held = [tensor.detach() for tensor in tensors if tensor.device.type == "cpu"]
        self.calls, self.edges, self._watched = [], [], []


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        return (value,)
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (tuple, list)) else ()
    return [item for item in items if isinstance(item, Tensor)]


def copied(value: Any) -> Any:
    """A value whose own tensors, one level deep, are copies with the same graph."""
    if isinstance(value, Tensor):
        return value.clone()
    if type(value) in (tuple, list):
        return type(value)(item.clone() if isinstance(item, Tensor) else item for item in value)
    if type(value) is dict:
        return {key: item.clone() if isinstance(item, Tensor) else item for key, item in value.items()}
    return value


class Gone:
    """What a copy or a pickle of a tapped model has in place of our hooks; takes itself off when it is called."""

    def __call__(self, module: nn.Module, *_: Any) -> None:
        """Do nothing, for the last time."""
        drop_dead_hooks(module)


def drop_dead_hooks(*modules: nn.Module) -> None:
    """Take what is left of our hooks off copies of a tapped model."""
    for module in modules:
        for hooks in (module._forward_hooks, module._forward_pre_hooks):
            for number in [number for number, hook in hooks.items() if type(hook) is Gone]:
                del hooks[number]
                module._forward_hooks_with_kwargs.pop(number, None)
                module._forward_hooks_always_called.pop(number, None)
                module._forward_pre_hooks_with_kwargs.pop(number, None)


class ForwardHook:
    """A hook that only works where it was put."""

    def __deepcopy__(self, memo: Any) -> Gone:
        return Gone()

    def __reduce__(self) -> Any:
        return Gone, ()


def is_ours(hook: Any) -> bool:
    """Whether a hook is one that captures, and changes nothing."""
    return isinstance(hook, (ForwardHook, Gone))


class _Begin(ForwardHook):
    """On the root, before its forward."""

    def __init__(self, taps: Taps) -> None:
        self.taps = taps

    def __call__(self, module: nn.Module, args: Any) -> None:
        if getattr(module, "_is_replica", False):
            raise ModelError(
                f"{self.taps.role} {self.taps.kind}: nn.DataParallel runs a copy of it on each device, so no layer has "
                "the features of a whole batch. Use DistributedDataParallel, or one device"
            )
        if self.taps.recording():
            self.taps.begin()


class _End(ForwardHook):
    """On the root, after its forward."""

    def __init__(self, taps: Taps) -> None:
        self.taps = taps

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if self.taps.recording():
            self.taps.inside = False


class _Output(ForwardHook):
    """On a layer, after its forward."""

    def __init__(self, taps: Taps, slot: Slot) -> None:
        self.taps, self.slot = taps, slot

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.taps.keep(self.slot, output)


class _Input(_Output):
    """On a layer, before its forward: one positional argument is that argument, more are a tuple, with names a dict."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any = None) -> None:
        if kwargs:
            self.taps.keep(self.slot, {**{str(index): arg for index, arg in enumerate(args)}, **kwargs})
        else:
            self.taps.keep(self.slot, args[0] if len(args) == 1 else args)


class Taps:
    """The captures of one model.

    Args:
        model: whose layers are named; seen through its wrappers.
        role: what the model is called in errors.
        other: role and model of the other side, for the error about a layer that only that one has.

    Attributes:
        inside: whether the root's forward is under way.
    """

    def __init__(self, model: nn.Module, role: str = "student", other: tuple[str, nn.Module] | None = None) -> None:
        self.model, self.role, self._other = model, role, other
        self.root = inside(model)
        self.kind = author_class(self.root).__name__
        self.slots: dict[Key, Slot] = {}
        self.inside = False
        self._handles: list[Any] = []

    def copying(self) -> list[list[Any]]:
        """Layer, whether its input is meant, and whether its values are copied, where that is known."""
        return [[*key, slot.copies] for key, slot in self.slots.items() if slot.copies is not None]

    def copy_as(self, known: Iterable[Iterable[Any]]) -> None:
        """Copy the values of the layers that `copying` named; sums of gradients have another order with a copy."""
        for layer, of_input, copies in known:
            if (layer, of_input) in self.slots:
                self.slots[layer, of_input].copies = bool(copies)

    def find(self, layer: str) -> str:
        """The name of a layer as its author gave it; LayerError where there is none."""
        return find_layer(self.model, layer, self.role, self._other)[0]

    def attach(self, keys: Iterable[Key]) -> None:
        """Put hooks on layers; on those that have one already none is added."""
        added = False
        for key in keys:
            if key in self.slots:
                continue
            self._hook(self.slots.setdefault(key, Slot(key)))
            added = True
        if added:
            self._hook_root()
            self._trace_again("attached to")

    def stand_on(self, model: nn.Module) -> None:
        """Move all hooks to another model with the same layers, whose forwards are captured from now on."""
        if model is self.model:
            return
        handles, self._handles, self._on_root = self._handles, [], False
        for handle in handles:
            handle.remove()
        self.model, self.root = model, inside(model)
        for slot in self.slots.values():
            self._hook(slot)
        if self.slots:
            self._hook_root()

    def _hook(self, slot: Slot) -> None:
        layer, of_input = slot.key
        module = find_layer(self.model, layer, self.role, self._other)[1]
        if of_input:
            self._handles.append(module.register_forward_pre_hook(_Input(self, slot), with_kwargs=True))
        else:
            self._handles.append(module.register_forward_hook(_Output(self, slot)))

    def _hook_root(self) -> None:
        if not self._on_root:
            self._on_root = True
            self._handles.append(self.root.register_forward_pre_hook(_Begin(self), prepend=True))
            self._handles.append(self.root.register_forward_hook(_End(self)))

    _on_root = False

    def detach(self) -> None:
        """Take every hook off; a second call does nothing."""
        handles, self._handles = self._handles, []
        for handle in handles:
            handle.remove()
        self.release()
        self.slots, self._on_root = {}, False
        if handles:
            self._trace_again("detached from")

    def begin(self) -> None:
        """A new forward: what the last one left is dropped."""
        self.inside = True
        for slot in self.slots.values():
            slot.clear()

    def keep(self, slot: Slot, value: Any) -> None:
        """Take the value of one call, where this forward is one to capture."""
        if not self.recording():
            if not torch.compiler.is_compiling() and self.inside and torch._C._current_graph_task_id() == -1:
                slot.unseen = True
            return
        if not self.inside:  # a layer called without its root: nothing may pile up
            slot.clear()
        if torch.compiler.is_compiling():
            slot.calls.append(copied(value))
        else:
            slot.keep(value)

    def recording(self) -> bool:
        """Whether this is a forward for a loss: with gradients, and not one that a backward repeats."""
        return torch.is_grad_enabled() and (torch.compiler.is_compiling() or torch._C._current_graph_task_id() == -1)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Capture another forward in the block; afterwards what was captured before is there again."""
        kept = [(slot, slot.calls, slot.edges, slot._watched) for slot in self.slots.values()]
        for slot, *_ in kept:
            slot.calls, slot.edges, slot._watched = [], [], []
        try:
            yield
        finally:
            for slot, calls, edges, watched in kept:
                slot.calls, slot.edges, slot._watched = calls, edges, watched

    def release(self) -> None:
        """Let go of all values; the loss has them."""
        for slot in self.slots.values():
            slot.clear()
        self.inside = False

    def _trace_again(self, what: str) -> None:
        """A module that was compiled and run has no place for our hooks in its graph, in silence."""
        if something_was_traced() and compiled_parts(self.model):
            torch.compiler.reset()
            logger.info("hooks were %s the compiled %s %s: it is traced again", what, self.role, self.kind)
