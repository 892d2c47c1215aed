"""A teacher's forward by Intel Extension for PyTorch: on an optimized copy, so that the user's model stays as it is.

Rules: the copy has the modules of the original under the same names, and taps stand on it while this is the way that
runs. It is in one precision, and runs under the autocast of that precision alone. What it gives is proven against
the plain forward on the first batch, and where it isn't the same the teacher runs without the extension.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.messages import logger
from kdhooks.speed import Choice
from kdhooks.torch.ipex import optimize, unusable
from kdhooks.torch.ipex_folding import fold_normalisation
from kdhooks.torch.taps import Key, drop_dead_hooks
from kdhooks.torch.teacher_speed import Subject, Way, attention_by_parts
from kdhooks.torch.teacher_taps import TeacherTaps


def refusal(subject: Subject, *, changes: bool = False) -> str | None:
    """Why a teacher can't run by the extension, in words; None where it can.

    Args:
        subject: the teacher.
        changes: whether its weights change at every step.
    """
    if (reason := unusable()) is not None:
        return reason
    if changes:
        return "its weights change at every step"
    if subject.shares:
        return "it has modules or weights that are the student's too, and the copy would not follow them"
    if subject.sharded:
        return "other processes or devices take part in its forward"
    if subject.compiled:
        return "it is compiled"
    floats = [one for one in (*subject.model.parameters(), *subject.model.buffers()) if one.is_floating_point()]
    if any(one.device.type != "cpu" for one in floats):
        return "the extension computes on the CPU, and the teacher stands elsewhere"
    if any(one.dtype != torch.float32 for one in floats):
        return "its weights are not in float32"
    return None


class IpexWay(Way):
    """The teacher's forward on a copy that ``ipex.optimize`` has made fast.

    Args:
        subject: the teacher.
        choice: how it is run; with no precision it is that of the autocast around each call.
    """

    def __init__(self, subject: Subject, choice: Choice) -> None:
        super().__init__(subject, choice, copies=False)
        self._twins: dict[torch.dtype | None, nn.Module] = {}
        self._keys: set[Key] = set()
        self._versions: list[tuple[int, int]] = []
        self._sums: Tensor | None = None
        self._doubted = False
        self._given_up = False

    @property
    def proves(self) -> bool:
        """Whether the first batch shall show that it gives what the plain forward does."""
        return not self._given_up

    def give_up(self, reason: str) -> None:
        """Run without the extension from now on; says why."""
        self._given_up = True
        self.choice = replace(self.choice, ipex=False)
        self._twins.clear()
        logger.info("the teacher %s runs without Intel's extension: %s", type(self.subject.model).__name__, reason)

    def run(self, taps: TeacherTaps | None, layers: frozenset[Key] | None, args: Any, kwargs: Any) -> Any:
        """One forward; see `Way.run`."""
        dtype = self._dtype()
        if self._given_up or dtype == torch.float16:
            return super().run(taps, layers, args, kwargs)
        model = self._twin(dtype, set() if taps is None else set(taps.slots))
        forward: Any = model
        if taps is not None:
            taps.compiled = None
            taps.stand_on(model)
            forward = partial(taps.run, layers)
        with (
            self._without_graph.context(taps is None),
            torch.autocast("cpu", torch.bfloat16, enabled=dtype is not None),
            attention_by_parts(),  # the fused kernel of a layer would read packed weights
        ):
            output = forward(*args, **kwargs)
        return self._without_graph.handed_out(output)

    def doubt(self) -> None:
        """The teacher's weights may have been written to in a way that is not counted."""
        self._doubted = True

    def end(self) -> None:
        """Let go of the copies."""
        super().end()
        self._twins.clear()

    def _dtype(self) -> torch.dtype | None:
        """What this forward computes in; None is full precision."""
        if self.choice.precision is not None:
            return torch.bfloat16 if self.choice.precision == "bf16" else None
        return torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else None

    def _twin(self, dtype: torch.dtype | None, keys: set[Key]) -> nn.Module:
        """The copy in a precision, made where there is none of the weights and taps that are there now."""
        if not keys <= self._keys:  # a layer that is looked at anew may be one that was folded away
            self._twins.clear()
            self._keys |= keys
        tensors = [*self.subject.model.parameters(), *self.subject.model.buffers()]
        versions = [(id(one), 0 if one.is_inference() else one._version) for one in tensors]
        if versions != self._versions or (self._doubted and not self._unwritten(tensors)):
            self._twins.clear()
            self._versions, self._sums = versions, _sums(tensors)
        self._doubted = False
        if dtype not in self._twins:
            self._twins[dtype] = self._made(dtype)
        return self._twins[dtype]

    def _unwritten(self, tensors: list[Tensor]) -> bool:
        return self._sums is not None and torch.equal(self._sums, _sums(tensors))

    def _made(self, dtype: torch.dtype | None) -> nn.Module:
        twin = copy.deepcopy(self.subject.model)
        drop_dead_hooks(*twin.modules())
        twin.requires_grad_(False)
        tapped = {layer for layer, _ in self._keys}
        fold_normalisation(twin, tapped)
        hooked = any(isinstance(one, nn.LSTM) and one._forward_hooks for one in twin.modules())
        made: nn.Module = optimize(
            twin,
            dtype,
            conv_bn_folding=False,  # done above, with the modules that taps stand on
            linear_bn_folding=False,
            replace_dropout_with_identity=False,
            optimize_lstm=not hooked,
        )
        return made


@torch.no_grad()
def _sums(tensors: list[Tensor]) -> Tensor:
    """A sum and a norm for each tensor: what is written to it changes them."""
    floats = [one for one in tensors if one.is_floating_point() and one.numel()]
    if not floats:
        return torch.zeros(0)
    return torch.stack([*torch._foreach_norm(floats), *(one.sum() for one in floats)])
