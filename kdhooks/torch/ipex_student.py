"""A student and its optimizer under Intel Extension for PyTorch, between the steps of the built-in loop only.

``ipex.optimize`` puts its own modules in place of the student's convolutions and linear layers, packs weights and
what the optimizer keeps for them into blocks, splits them in bf16 into an upper and a lower half, and replaces methods
of both. Rules: it is done in place, so that hooks, optimizers and parameters stay the very objects; all of it is
undone before anybody else looks (an evaluation, a checkpoint, the end of the run, an exception) and done again at the
next step. What is saved is therefore always plain.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kdhooks.torch.ipex import optimize


@dataclass(frozen=True)
class _Kept:
    """What one module was before: its attributes' names, its own parameters and modules, and its mode."""

    module: nn.Module
    names: frozenset[str]
    parameters: dict[str, nn.Parameter | None]
    modules: dict[str, nn.Module | None]
    training: bool


class IpexTraining:
    """Puts a student and its optimizer under the extension, and takes them out again.

    Args:
        student: the user's own module, in train mode whenever `enter` is called.
        optimizer: of its parameters; `student_refusal` has nothing against it.
        bf16: whether weights are kept in bfloat16, beside the lower half of each; the loop has autocast around
            its forward then, and none otherwise.
    """

    def __init__(self, student: nn.Module, optimizer: Optimizer, *, bf16: bool) -> None:
        self._student, self._optimizer = student, optimizer
        self._dtype = torch.bfloat16 if bf16 else None
        self._kept: list[_Kept] = []
        self._added: list[tuple[nn.Module, frozenset[str]]] = []
        self._data: dict[nn.Parameter, tuple[Tensor, tuple[int, ...]]] = {}
        self._states: dict[nn.Parameter, dict[str, Any]] = {}
        self._methods: dict[str, Any] = {}
        self._inside = False

    def enter(self) -> None:
        """Optimize both; a second call does nothing."""
        if self._inside:
            return
        self._remember()
        self._inside = True
        try:
            optimize(self._student, self._dtype, optimizer=self._optimizer, optimize_lstm=False)
        except BaseException:
            self._note_added()
            self._put_back(packed=False)
            raise
        self._note_added()
        self._call_step_hooks()

    def leave(self) -> None:
        """Give both back as they were, with the values that they have now; a second call does nothing."""
        if self._inside:
            self._put_back(packed=True)

    def _remember(self) -> None:
        modules = {id(module): module for module in self._student.modules()}
        self._kept = [
            _Kept(one, frozenset(vars(one)), dict(one._parameters), dict(one._modules), one.training)
            for one in modules.values()
        ]
        # the tensors themselves: the extension makes new ones, and leaves these as they are
        self._data = {one: (one.data, one.stride()) for one in self._student.parameters()}
        self._states = {one: dict(self._optimizer.state[one]) for one in self._data if one in self._optimizer.state}
        self._methods = dict(vars(self._optimizer))

    def _note_added(self) -> None:
        """What stands on modules by the extension; what their forwards keep there later is their own."""
        self._added = [(one.module, frozenset(vars(one.module)) - one.names) for one in self._kept]

    def _call_step_hooks(self) -> None:
        """Its fused step stands on the instance, where torch's calls of hooks before and after a step are lost."""
        step = vars(self._optimizer).get("step")
        if isinstance(step, MethodType) and step is not self._methods.get("step"):
            self._optimizer.step = MethodType(Optimizer.profile_hook_step(step.__func__), self._optimizer)  # type: ignore[method-assign]

    def _put_back(self, *, packed: bool) -> None:
        wrappers = vars(self._optimizer).get("params_attr", {}) if packed else {}
        for parameter, (data, strides) in self._data.items():
            wrapper = wrappers.get(parameter)
            if not packed:
                parameter.data = data
                self._optimizer.state.get(parameter, {}).update(self._states.get(parameter, {}))
            elif wrapper is not None:
                self._unpack(parameter, wrapper, strides)
        self._put_back_modules()
        self._put_back_optimizer()
        self._inside = False
        self._kept, self._added, self._data, self._states, self._methods = [], [], {}, {}, {}

    @torch.no_grad()
    def _unpack(self, parameter: nn.Parameter, wrapper: Any, strides: tuple[int, ...]) -> None:
        """The values of one parameter, and of what the optimizer keeps for it, in their plain form."""
        state, context, shape = self._optimizer.state.get(parameter, {}), wrapper.op_ctx, parameter.shape
        dtype = wrapper.original_dtype or parameter.dtype
        plain = wrapper._unpack_cast_to_fp32()
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == shape and value.ndim:
                value = value if context is None else context.to_public(value)
                state[name] = _laid(value.to(dtype), plain.shape, strides)
        parameter.data = _laid(plain, plain.shape, strides)
        parameter.grad = None  # of another form; the loop makes it anew before it is used

    def _put_back_modules(self) -> None:
        for module, names in self._added:
            for name in names:
                vars(module).pop(name, None)
        for kept in self._kept:
            _exchange(kept.module._modules, kept.modules)
            _exchange(kept.module._parameters, kept.parameters)
            kept.module.training = kept.training

    def _put_back_optimizer(self) -> None:
        own = vars(self._optimizer)
        for name in ("params_attr", "fused", "sync_grad", "step_sync_weight", *_PATCHED):
            if name in self._methods:
                own[name] = self._methods[name]
            else:
                own.pop(name, None)


_METHODS = ("step", "zero_grad", "state_dict", "load_state_dict")
_PATCHED = (*_METHODS, *(f"_original_{name}" for name in _METHODS))


def _exchange(now: dict[str, Any], before: dict[str, Any]) -> None:
    """What a module has, as it was; the very dictionary stays."""
    now.clear()
    now.update(before)


def _laid(tensor: Tensor, shape: Iterable[int], strides: tuple[int, ...]) -> Tensor:
    """A tensor of its own with these strides."""
    return torch.empty_strided(tuple(shape), strides, dtype=tensor.dtype).copy_(tensor)
