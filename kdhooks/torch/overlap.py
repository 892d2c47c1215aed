"""Copies a batch to a teacher on another GPU while the student's forward runs.

A copy between two GPUs waits for all that is queued on the current stream of the one it comes from: for the student's
whole forward, if it is asked for after that. So an event marks the beginning of the student's forward, and what the
student got is copied on a stream of our own, which waits for that event alone. Whatever the student did not get, or
somebody has written to since, is copied in the usual order. The outputs come back in the usual order too: they are
needed where the loss is computed, behind the student's forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor, nn

from kdhooks.torch.outputs import map_tensors
from kdhooks.torch.taps import ForwardHook
from kdhooks.torch.wrappers import compiled_parts, inside

Move = Callable[[Tensor], Tensor]


class Overlap:
    """Moves tensors to another GPU, early where they were there early.

    Args:
        move: copies a tensor in the usual order.
        device: where it goes.
        streams: the module of streams and events; a test has another.
    """

    def __init__(self, move: Move, device: torch.device, streams: Any = torch.cuda) -> None:
        self._move, self._device, self._streams = move, device, streams
        self._began: dict[torch.device, Any] = {}
        self._sides: dict[torch.device, Any] = {}
        self._given: WeakValueDictionary[int, Tensor] = WeakValueDictionary()
        self._versions: dict[int, int] = {}
        self._handle: Any = None

    def attach(self, student: nn.Module) -> None:
        """Mark the beginning of each of the student's forwards."""
        self._handle = inside(student).register_forward_pre_hook(_Began(self), prepend=True, with_kwargs=True)

    def detach(self) -> None:
        """Mark nothing any more; a second call does nothing."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self.forget()

    def forget(self) -> None:
        """Let go of what the last forward got."""
        self._began, self._versions = {}, {}
        self._given.clear()

    def began(self, given: Any) -> None:
        """The student's forward begins with these tensors."""
        self.forget()
        map_tensors(self._take, given)

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor, where the teacher is."""
        event = self._began.get(tensor.device)
        early = self._given.get(id(tensor)) is tensor and self._versions.get(id(tensor)) == tensor._version
        if event is None or not early:
            return self._move(tensor)
        if tensor.device not in self._sides:
            self._sides[tensor.device] = self._streams.Stream(device=tensor.device)
        side = self._sides[tensor.device]
        side.wait_event(event)
        with self._streams.stream(side):  # torch lets the stream of the other device wait for a copy to it
            moved = self._move(tensor)
        tensor.record_stream(side)  # its memory is not given to anybody else before the copy is through
        return moved

    def _take(self, tensor: Tensor) -> Tensor:
        if tensor.device.type == self._device.type and tensor.device != self._device and not tensor.is_inference():
            self._given[id(tensor)], self._versions[id(tensor)] = tensor, tensor._version
            if tensor.device not in self._began:
                self._began[tensor.device] = self._streams.current_stream(tensor.device).record_event()
        return tensor


class _Began(ForwardHook):
    """On the student's root, before its forward."""

    def __init__(self, overlap: Overlap) -> None:
        self.overlap = overlap

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.overlap.began((args, kwargs))


def overlapped(move: Move, device: torch.device, student: nn.Module) -> Overlap | None:
    """What copies to a teacher's device early, where teacher and student are on two GPUs; else None.

    A compiled student has no place in its graph for the mark.
    """
    where = next((parameter.device for parameter in student.parameters()), device)
    if device.type != "cuda" or where.type != "cuda" or where == device or compiled_parts(student):
        return None
    overlap = Overlap(move, device)
    overlap.attach(student)
    return overlap
