"""A teacher in PyTorch: in eval mode, frozen, its buffers untouched, and as it was when we are gone.

Modules that a teacher shares with the student (a tied head, a base under adapters) belong to the
student: they are in eval mode only while the teacher's forward runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from kdhooks.config.model import AskedPrecision, Switch, TeacherSettings
from kdhooks.criterion import Step
from kdhooks.hooks import Hook
from kdhooks.messages import logger
from kdhooks.speed import Choice
from kdhooks.torch.outputs import as_call, map_tensors, moved
from kdhooks.torch.overlap import Move, Overlap, overlapped
from kdhooks.torch.sharding import gather_nothing
from kdhooks.torch.taps import Key
from kdhooks.torch.teacher_choice import agreed, candidates, completed, has_auto, quickest, some_rows
from kdhooks.torch.teacher_first import first_forward, generators_kept
from kdhooks.torch.teacher_folding import Folds
from kdhooks.torch.teacher_lengths import ByLength
from kdhooks.torch.teacher_shards import check_mesh, shared_out
from kdhooks.torch.teacher_speed import Subject, Way, way_for
from kdhooks.torch.teacher_taps import TeacherTaps


class Teacher(Hook):
    """One frozen teacher, called as a function of its input.

    How it runs is settled at its first forward, and nothing is timed or copied before.

    Args:
        model: the teacher.
        student: the student, to know which modules and parameters are shared.
        precision: of its own autocast, or None to follow the autocast around the call.
        channels_last: whether its maps lie in memory as [N, H, W, C].
        compile: whether its forward is compiled.
        ipex: whether it is optimized by Intel's extension.
        sharded: whether a copy that the ranks share out runs in its place.
        outputs: what it calls its logits (``model.outputs``).

    Attributes:
        changes: whether its weights change at every step.
    """

    changes = False

    def __init__(
        self,
        model: nn.Module,
        student: nn.Module,
        *,
        precision: AskedPrecision | None = None,
        channels_last: Switch = False,
        compile: bool = False,
        ipex: Switch = False,
        sharded: bool = False,
        outputs: tuple[str, ...] = (),
    ) -> None:
        self.model = model
        self._student = student
        self._asked = TeacherSettings(precision, channels_last, compile, ipex, sharded=sharded)
        self._shared_out = False
        self._outputs = outputs
        self._own: list[nn.Module] = []
        self._subject = Subject(model)
        self._modes: list[bool] = []
        self._unfrozen: list[nn.Parameter] = []
        self.taps: TeacherTaps | None = None
        self._way: Way | None = None
        self._lengths: ByLength | None = None
        self._choice: Choice | None = None
        self._adopted: Choice | None = None
        self._move: Move | None = None
        self._overlap: Overlap | None = None

    @property
    def choice(self) -> Choice | None:
        """How the teacher runs; None until the first forward, `settle` or `adopt` has decided it."""
        return self._choice or self._adopted

    @property
    def chosen(self) -> Choice | None:
        """What ``auto`` became, for a state; None where nothing was left to it, or nothing is decided yet."""
        return self.choice if has_auto(self._asked) else None

    def settle(self, value: Any) -> Choice:
        """Decide how the teacher runs, where that is not decided yet.

        Args:
            value: an input of the teacher, on which ``auto`` times its candidates.
        """
        self.share_out()
        if self._choice is None:
            choice = agreed(lambda: self._chosen_for(value)) if has_auto(self._asked) else self._completed()
            self._choice = self._possible(choice)
        return self._choice

    def share_out(self) -> nn.Module:
        """What runs: the model, or a copy of it that the ranks share out where that is asked for; made once a run."""
        if not self._shared_out:
            self._shared_out = True
            if self._asked.sharded:
                running = shared_out(self.model, self._student, shares=self._subject.shares)
                self._subject = replace(self._subject, model=running)
                self._place()
            check_mesh(self._subject.model, self._student)
        return self._subject.model

    def adopt(self, choice: Choice) -> None:
        """Run as was chosen before, in what is left to ``auto``; what the configuration sets stays."""
        self._adopted, self._choice = completed(self._asked, choice), None
        self._leave_way()

    def on_train_begin(self) -> None:
        """Put the teacher's own modules into eval mode and freeze its own parameters."""
        gather_nothing(self.model)
        of_student = {id(module) for module in self._student.modules()}
        modules = list(self.model.modules())
        self._own = [module for module in modules if id(module) not in of_student]
        shared = tuple(module for module in modules if id(module) in of_student)
        self._modes = [module.training for module in self._own]
        theirs = frozenset(id(parameter) for parameter in self._student.parameters())
        # a tied head may share its weight only, with a module of its own on each side
        shares = bool(shared) or any(id(parameter) in theirs for parameter in self.model.parameters())
        self._subject = Subject(self.model, shared, theirs, shares)
        self._unfrozen = [
            p for p in self.model.parameters() if p.requires_grad and id(p) not in theirs and not p.is_inference()
        ]
        for parameter in self._unfrozen:
            parameter.requires_grad_(False)
        self._eval()
        self._place()
        plain = self._completed() == Choice() and not has_auto(self._asked)
        if self._adopted is None and plain and not (self._asked.sharded or self._subject.sharded):
            self._choice, self._way = Choice(), way_for(self._subject, Choice())

    def on_epoch_begin(self, epoch: int) -> None:
        """Look at the weights again: a write past torch's counters is found once an epoch."""
        if self._way is not None:
            self._way.doubt()

    def on_epoch_end(self) -> None:
        """The same, for loops that say where an epoch ends only."""
        if self._way is not None:
            self._way.doubt()

    def on_train_end(self) -> None:
        """Give every module its mode back, and every parameter its gradient."""
        self.untap()
        self._leave_way()
        if self._overlap is not None:
            self._overlap.detach()
            self._overlap = None
        for module, mode in zip(self._own, self._modes, strict=True):
            module.training = mode
        for parameter in self._unfrozen:
            parameter.requires_grad_(True)
        self._own, self._modes, self._unfrozen = [], [], []
        self._subject, self._shared_out = Subject(self.model), False

    def tap(self) -> TeacherTaps:
        """What captures the teacher's layers; one for all criteria."""
        if self.taps is None:
            self.taps = TeacherTaps(self.model)
            self.taps.compiled = None if self._way is None else self._way.compiled
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
        way = self._way
        if way is None:
            return self._first(value, layers)
        args, kwargs = self._received(value)
        return self._parted(way, layers, args, kwargs, lambda: way.run(self.taps, layers, args, kwargs))

    def _first(self, value: Any, layers: frozenset[Key] | None) -> Any:
        choice = self.settle(value)
        args, kwargs = self._received(value)
        way = way_for(self._subject, choice)
        self._lengths = ByLength(type(self.model).__name__) if self._by_length else None

        def whole() -> Any:
            return first_forward(way, self.taps, layers, args, kwargs, self._outputs)

        try:
            output = self._parted(way, layers, args, kwargs, whole)
        except BaseException:
            way.end()
            raise
        self._way = way
        return output

    def _parted(self, way: Way, layers: frozenset[Key] | None, args: Any, kwargs: Any, whole: Callable[[], Any]) -> Any:
        """The output of a batch, in parts where short rows need not be as wide as long ones."""
        if self._lengths is None or self.taps is not None:
            return whole()
        return self._lengths.run(lambda **part: way.run(None, layers, (), part), args, kwargs, whole)

    @property
    def _by_length(self) -> bool:
        """Whether rounding and shapes are left to us."""
        return self._asked.precision == "auto" and not (self._asked.compile or self._subject.sharded)

    def _received(self, value: Any) -> tuple[Any, dict[str, Any]]:
        """The arguments of the model, in eval mode, where and as it wants them."""
        if self._own and self._own[0].training:  # somebody called train() on a model around it
            self._eval()
        args, kwargs = as_call(value)
        if self._move is None:
            return args, kwargs
        if isinstance(value, Tensor):  # the common case, without a walk through nests
            return (self._move(value),), kwargs
        return map_tensors(self._move, args), map_tensors(self._move, kwargs)

    def _completed(self) -> Choice:
        """What is asked for, where nothing is left to choose."""
        return completed(self._asked, Choice())

    def _chosen_for(self, value: Any) -> Choice:
        """What was adopted, or the quickest of the candidates on this input."""
        found = candidates(self._asked, self.model, ipex=self._ipex_refusal() is None)
        if self._adopted is not None:
            return self._adopted
        if self._subject.sharded or self._subject.compiled:  # timing would need the other ranks, or compile it anew
            found = [replace(found[0], channels_last=self._asked.channels_last is True)]
        timed, on = some_rows(value)
        args, kwargs = self._received(timed)

        def ready(choice: Choice) -> Any:
            way = way_for(self._subject, replace(choice, compile=False))
            return lambda: way.run(None, None, args, kwargs)

        with generators_kept():
            return quickest(found, ready, type(self.model).__name__, self._further, on)

    def _further(self, best: Choice) -> list[Choice]:
        """The quickest candidate with folded normalisations, where something can be folded."""
        return [replace(best, folded=True)] if not best.ipex and self._may_fold and Folds(self.model) else []

    @property
    def _may_fold(self) -> bool:
        """Whether rounding is left to us, and the weights are the teacher's alone."""
        left, subject = self._asked.precision == "auto" and not self._asked.compile, self._subject
        return left and not (self.changes or subject.shares or subject.sharded or subject.compiled)

    def _ipex_refusal(self) -> str | None:
        """Why Intel's extension can't run this teacher; None where it can, or nobody asks."""
        if self._asked.ipex is False:
            return "not asked for"
        from kdhooks.torch.ipex_teacher import refusal  # loaded by those who ask for it

        if self._asked.compile:
            return "it is compiled"
        if self._asked.precision == "fp16":
            return "it computes in fp32 and bf16, not in fp16"
        return refusal(self._subject, changes=self.changes)

    def _possible(self, choice: Choice) -> Choice:
        """A choice without the extension where that can't run this teacher; says so where it was asked for."""
        if choice.folded and not self._may_fold:
            choice = replace(choice, folded=False)
        if not choice.ipex or (reason := self._ipex_refusal()) is None:
            return choice
        if self._asked.ipex is True or self._adopted is not None:
            kind = type(self.model).__name__
            logger.info("the teacher %s runs without Intel's extension: %s", kind, reason)
        return replace(choice, ipex=False)

    def _leave_way(self) -> None:
        way, self._way = self._way, None
        if way is not None:
            way.end()
        if self.taps is not None:
            self.taps.compiled = None

    def _eval(self) -> None:
        if self._subject.modules:
            for module in self._own:
                module.training = False
        else:
            self.model.eval()  # honours models that override it

    def _place(self) -> None:
        """Find out where inputs have to go; a model spread over devices moves them by itself."""
        self._move = None
        model = self._subject.model
        tensors = [*model.parameters(), *model.buffers()]
        if tensors and not hasattr(model, "hf_device_map"):
            floats = [tensor.dtype for tensor in tensors if tensor.is_floating_point()]
            device = tensors[0].device
            self._move = moved(device, floats[0] if floats else None)
            self._overlap = overlapped(self._move, device, self._student)
            self._move = self._overlap or self._move
