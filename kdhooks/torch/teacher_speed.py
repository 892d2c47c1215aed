"""Ways to run a teacher's forward: what surrounds it, what is made for it, and how all that is undone.

A `Way` is made at a teacher's first forward, from its `Choice`, and ended with the run. Another way (an extension's
own optimizations, say) is a subclass that `way_for` returns for its choices.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.speed import Choice
from kdhooks.torch.outputs import map_tensors
from kdhooks.torch.placement import DTYPES
from kdhooks.torch.taps import Key
from kdhooks.torch.teacher_compile import Compiled
from kdhooks.torch.teacher_copies import Copies, sharded
from kdhooks.torch.teacher_folding import Folds
from kdhooks.torch.teacher_inference import WithoutGraph
from kdhooks.torch.teacher_taps import TeacherTaps
from kdhooks.torch.wrappers import compiled_parts


@dataclass(frozen=True)
class Subject:
    """A teacher's model, and what of it is the student's too.

    Attributes:
        model: the teacher.
        modules: those that the student has too, in eval mode only while the teacher runs.
        parameters: the ids of the student's parameters.
        shares: whether the student has some of the teacher's modules or parameters.
    """

    model: nn.Module
    modules: tuple[nn.Module, ...] = ()
    parameters: frozenset[int] = field(default_factory=frozenset)
    shares: bool = False

    @cached_property
    def sharded(self) -> bool:
        """Whether other processes or devices take part in a forward."""
        return sharded(self.model)

    @cached_property
    def compiled(self) -> bool:
        """Whether its user has compiled it: its weights are part of a graph then."""
        return compiled_parts(self.model)


def way_for(subject: Subject, choice: Choice) -> Way:
    """The way that a choice means."""
    if choice.ipex:
        from kdhooks.torch.ipex_teacher import IpexWay  # which is a way

        return IpexWay(subject, choice)
    return Way(subject, choice)


class Way:
    """The teacher's forward on its own modules, without a graph, in a precision and a memory format.

    Args:
        subject: the teacher.
        choice: how it is run.
        copies: whether weights may be copied; autocast casts them anew at every forward otherwise.

    Attributes:
        copies: of the weights, or None where there are none.
        compiled: the model's forward as we have compiled it, or None.
    """

    def __init__(self, subject: Subject, choice: Choice, *, copies: bool = True) -> None:
        self.subject, self.choice = subject, choice
        dtype = DTYPES.get(choice.precision or "")
        self.copies: Copies | None = None
        # with nothing asked for it is the plain forward under no_grad, which may also be traced into a compiled step
        free = choice != Choice() and not subject.sharded and not subject.compiled
        if copies and free and (dtype is not None or choice.channels_last or choice.folded):
            folds = Folds(subject.model) if choice.folded else None
            self.copies = Copies(subject.model, dtype, choice.channels_last, subject.parameters, folds)
        compiling = choice.compile and "_orig_mod" not in subject.model._modules
        self.compiled = Compiled(subject.model) if compiling else None
        self._without_graph = WithoutGraph(subject.model, allowed=free and not subject.shares and not choice.compile)
        self._bare = choice.precision is None and not subject.shares and self.copies is None
        self._attention = dtype is not None and any(isinstance(m, _ATTENTION) for m in subject.model.modules())

    @property
    def lowers(self) -> bool:
        """Whether weights of full precision are computed with in a lower one."""
        low = self.choice.precision in DTYPES
        parameters = self.subject.model.parameters()
        return low and any(one.dtype == torch.float32 and one.device.type != "meta" for one in parameters)

    @property
    def folds(self) -> bool:
        """Whether normalisations are folded, which changes rounding."""
        return self.copies is not None and self.copies.folds is not None

    @property
    def proves(self) -> bool:
        """Whether the first batch shall show that it gives what the plain forward does."""
        return False

    def unfold(self) -> None:
        """Fold nothing from now on."""
        self.choice = replace(self.choice, folded=False)
        if self.copies is not None:
            self.copies.unfold()

    def give_up(self, reason: str) -> None:
        """Run plainly from now on, where the first batch showed something else; says why."""

    def run(self, taps: TeacherTaps | None, layers: frozenset[Key] | None, args: Any, kwargs: Any) -> Any:
        """One forward.

        Args:
            taps: what captures layers, if anything does.
            layers: those that are looked at where the output is not wanted.
            args: of the model, where it stands.
            kwargs: of the model.

        Returns:
            The model's output as ordinary tensors without a graph, or None where its forward was ended.
        """
        forward: Any = self.compiled or self.subject.model
        if taps is not None:
            taps.compiled = self.compiled
            taps.stand_on(self.subject.model)
            forward = partial(taps.run, layers)
            if self.folds and self.copies is not None:
                self.copies.look(layer for layer, _ in taps.slots)
        if self._bare:
            with self._without_graph.context(taps is None):
                output = forward(*args, **kwargs)
            return self._without_graph.handed_out(output)
        if self.copies is not None:
            args, kwargs = self.copies.inputs(args, kwargs)
        with (
            self._without_graph.context(taps is None),
            self._autocast(args, kwargs),
            self._shared_in_eval(),
            nullcontext() if self.copies is None else self.copies.in_place(),
            attention_by_parts() if self._attention else nullcontext(),
        ):
            output = forward(*args, **kwargs)
        return self._without_graph.handed_out(output)

    def doubt(self) -> None:
        """The teacher may have been changed in a way that is not counted."""
        self._without_graph.doubt()
        if self.copies is not None:
            self.copies.doubt()

    def end(self) -> None:
        """Let go of what was made; nothing of it stands on the model between two forwards."""
        self._without_graph.end()
        self.copies = self.compiled = None

    def _autocast(self, args: Any, kwargs: Any) -> AbstractContextManager[Any]:
        precision, shares = self.choice.precision, self.subject.shares
        device = _first_device((args, kwargs))
        if precision is None or device is None:
            # autocast would keep a cast copy of a shared weight that was made without a graph, and the
            # student's next forward in the same block would train nothing through it
            return _uncached_autocast() if torch.is_autocast_enabled(device or "cpu") else nullcontext()
        dtype = DTYPES.get(precision)
        return torch.autocast(device, dtype, enabled=dtype is not None, cache_enabled=not shares)

    @contextmanager
    def _shared_in_eval(self) -> Iterator[None]:
        training = [module for module in self.subject.modules if module.training]
        with ExitStack() as stack:
            for module in training:
                stack.callback(setattr, module, "training", True)
                module.training = False
            yield


_ATTENTION = (nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.TransformerEncoder)


@contextmanager
def attention_by_parts() -> Iterator[None]:
    """Torch's fused kernel of a whole attention layer knows no autocast on a CPU: it would run in full precision."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


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
