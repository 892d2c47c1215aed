"""A teacher in PyTorch: in eval mode, frozen, its buffers untouched, and as it was when we are gone.

Modules that a teacher shares with the student (a tied head, a base under adapters) belong to the
student: they are in eval mode only while the teacher's forward runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.config.model import AskedPrecision
from kdhooks.criterion import Step
from kdhooks.hooks import Hook
from kdhooks.speed import Choice
from kdhooks.torch.outputs import as_call, map_tensors, moved
from kdhooks.torch.placement import DTYPES
from kdhooks.torch.taps import Key
from kdhooks.torch.teacher_taps import TeacherTaps


class Teacher(Hook):
    """One frozen teacher, called as a function of its input.

    Args:
        model: the teacher.
        student: the student, to know which modules and parameters are shared.
        precision: of its own autocast, or None to follow the autocast around the call.
    """

    def __init__(self, model: nn.Module, student: nn.Module, *, precision: AskedPrecision | None = None) -> None:
        self.model = model
        self._student = student
        self._precision = precision
        self._own: list[nn.Module] = []
        self._shared: list[nn.Module] = []
        self._shares = False
        self._modes: list[bool] = []
        self._unfrozen: list[nn.Parameter] = []
        self.taps: TeacherTaps | None = None
        self._choice: Choice | None = None

    @property
    def choice(self) -> Choice | None:
        """How the teacher runs; None until the first forward, or `settle`, has decided it."""
        return self._choice

    def settle(self, value: Any) -> Choice:
        """Decide how the teacher runs, where that is not decided yet.

        Args:
            value: an input of the teacher, on which ``auto`` times its candidates.
        """
        if self._choice is None:
            self._choice = Choice(None if self._precision == "auto" else self._precision)
        return self._choice

    def adopt(self, choice: Choice) -> None:
        """Run as was chosen before, in what is left to ``auto``; what the configuration sets stays."""
        self._choice = choice

    def on_train_begin(self) -> None:
        """Put the teacher's own modules into eval mode and freeze its own parameters."""
        of_student = {id(module) for module in self._student.modules()}
        modules = list(self.model.modules())
        self._own = [module for module in modules if id(module) not in of_student]
        self._shared = [module for module in modules if id(module) in of_student]
        self._modes = [module.training for module in self._own]
        theirs = {id(parameter) for parameter in self._student.parameters()}
        # a tied head may share its weight only, with a module of its own on each side
        self._shares = bool(self._shared) or any(id(parameter) in theirs for parameter in self.model.parameters())
        self._unfrozen = [
            p for p in self.model.parameters() if p.requires_grad and id(p) not in theirs and not p.is_inference()
        ]
        for parameter in self._unfrozen:
            parameter.requires_grad_(False)
        self._eval()
        self._place()

    def on_train_end(self) -> None:
        """Give every module its mode back, and every parameter its gradient."""
        for module, mode in zip(self._own, self._modes, strict=True):
            module.training = mode
        for parameter in self._unfrozen:
            parameter.requires_grad_(True)
        self._own, self._shared, self._modes, self._unfrozen = [], [], [], []
        self.untap()

    def tap(self) -> TeacherTaps:
        """What captures the teacher's layers; one for all criteria."""
        if self.taps is None:
            self.taps = TeacherTaps(self.model)
        return self.taps

    def untap(self) -> None:
        """Take all hooks off the teacher."""
        if self.taps is not None:
            self.taps.detach()
            self.taps = None

    def release(self) -> None:
        """Let go of what was captured."""
        if self.taps is not None:
            self.taps.release()

    def __call__(self, value: Any, step: Step | None = None) -> Any:
        """The teacher's output for an input that the student got, without a graph."""
        return self._forward(value, None)

    def features(self, value: Any, layers: frozenset[Key], step: Step | None = None) -> None:
        """Capture layers in a forward that ends at the deepest of them."""
        self._forward(value, layers)

    def _forward(self, value: Any, layers: frozenset[Key] | None) -> Any:
        if self._own and self._own[0].training:  # somebody called train() on a model around it
            self._eval()
        args, kwargs = as_call(value)
        if self._move is not None:
            if isinstance(value, Tensor):  # the common case, without a walk through nests
                args = (self._move(value),)
            else:
                args, kwargs = map_tensors(self._move, args), map_tensors(self._move, kwargs)
        run = self.model if self.taps is None else partial(self.taps.run, layers)
        if not self._shares and self._precision is None:
            with torch.no_grad():
                return run(*args, **kwargs)
        with torch.no_grad(), self._autocast(args, kwargs), self._shared_in_eval():
            return run(*args, **kwargs)

    def _eval(self) -> None:
        if self._shared:
            for module in self._own:
                module.training = False
        else:
            self.model.eval()  # honours models that override it

    def _place(self) -> None:
        """Find out where inputs have to go; a model spread over devices moves them by itself."""
        self._move = None
        tensors = [*self.model.parameters(), *self.model.buffers()]
        if tensors and not hasattr(self.model, "hf_device_map"):
            floats = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
            self._move = moved(tensors[0].device, floats[0] if floats else None)

    def _autocast(self, args: Any, kwargs: Any) -> AbstractContextManager[Any]:
        device = _first_device((args, kwargs))
        if self._precision is None or device is None:
            # autocast would keep a cast copy of a shared weight that was made without a graph, and the
            # student's next forward in the same block would train nothing through it
            return _uncached_autocast() if torch.is_autocast_enabled(device or "cpu") else nullcontext()
        dtype = DTYPES.get(self._precision)
        return torch.autocast(device, dtype, enabled=dtype is not None, cache_enabled=not self._shares)

    @contextmanager
    def _shared_in_eval(self) -> Iterator[None]:
        training = [module for module in self._shared if module.training]
        with ExitStack() as stack:
            for module in training:
                stack.callback(setattr, module, "training", True)
                module.training = False
            yield


@contextmanager
def _uncached_autocast() -> Iterator[None]:
    before = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(before)


def _first_device(value: Any) -> str | None:
    found: list[str] = []

    def look(tensor: Tensor) -> Tensor:
        found.append(tensor.device.type)
        return tensor

    map_tensors(look, value)
    return found[0] if found else None
