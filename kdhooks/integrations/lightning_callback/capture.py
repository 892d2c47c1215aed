"""What the student got and returned in ``training_step``: one forward a step, the user's own.

Rules: counted are forwards inside of ``training_step``, with gradients, and not those that a backward repeats under
checkpointing. The hook stands on the module that the ``LightningModule`` calls; a copy of it carries none that works.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge

from kdhooks.errors import UsageError
from kdhooks.integrations.forwards import input_of, trains
from kdhooks.torch.taps import ForwardHook
from kdhooks.torch.wrappers import compiled_parts, something_was_traced


class Capture:
    """The student's forward of the step that is under way.

    Args:
        module: the ``LightningModule``.
        student: as the ``LightningModule`` calls it.
        name: its name there, for errors.
        several: whether the last of several forwards is taken, which are an error otherwise.
        others: children by name that may not be called beside the student, where it was found among several.

    Attributes:
        forwards: how many there were in this step.
        input: of the last one, as `kdhooks.Distillation.on_after_compute_loss` takes it.
        output: of the last one, with its graph.
        in_step: whether ``training_step`` is under way.
    """

    def __init__(
        self,
        module: nn.Module,
        student: nn.Module,
        name: str,
        *,
        several: bool = False,
        others: Mapping[str, nn.Module] | None = None,
    ) -> None:
        self._module = module
        self.student, self.name, self.several = student, name or type(student).__name__, several
        self.forwards = 0
        self.in_step = False
        self.input: Any = None
        self.output: Any = None
        self._inside = False
        self._edges: list[Any] = []
        self._handles: list[Any] = [
            student.register_forward_pre_hook(_Begin(self), prepend=True),
            student.register_forward_hook(_End(self), with_kwargs=True),
        ]
        self._others = {} if others is None else others
        self._trace_again()
        self._watches = [child.register_forward_hook(_Other(self, which)) for which, child in self._others.items()]

    def detach(self) -> None:
        """Take the hooks off and let go of what they held; a second call does nothing."""
        for handle in (*self._handles, *self._watches):
            handle.remove()
        if self._handles:
            self._trace_again()
        self._handles, self._watches = [], []
        self.clear()

    def _trace_again(self) -> None:
        """A module that was compiled and run has no place for our hooks in its graph, in silence."""
        compiled = compiled_parts(self.student) or getattr(self._module, "_compiler_ctx", None) is not None
        if compiled and something_was_traced():
            torch.compiler.reset()

    def clear(self) -> None:
        """A new step begins, or this one's loss is known."""
        self.forwards, self._inside, self.input, self.output, self._edges = 0, False, None, None, []

    def counts(self) -> bool:
        """Whether a forward that happens now is one for a loss."""
        return self.in_step and trains()

    def keep(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        """Take a forward.

        Raises:
            UsageError: it is not the first one of this step.
        """
        self._inside = False
        self.forwards += 1
        if self.forwards > 1 and not self.several:
            raise UsageError(
                f"training_step called the student {self.name!r} {self.forwards} times before its loss was known, and "
                "the teacher follows one forward. Put both inputs into one batch, run what needs no gradients under "
                "torch.no_grad(), or follow the last one with DistillationCallback(distiller, several_forwards=True)"
            )
        self.input, self.output = input_of(self.student, args, kwargs), output
        self._edges = []

    def take(self) -> tuple[Any, Any]:
        """Input and output of the student for the loss that is known now; the next loss needs another forward.

        Raises:
            UsageError: there was no forward of the student.
        """
        if not self.forwards:
            raise UsageError(
                f"training_step returned a loss and did not call the student {self.name!r} with gradients: name the "
                "module that it calls, as in DistillationCallback(distiller, student='backbone')"
            )
        for handle in self._watches:  # what the first step calls, the others call too
            handle.remove()
        self._watches = []
        taken = self.input, self.output
        self.clear()
        return taken

    def reached_by(self, loss: Tensor) -> bool:
        """Whether the backward of a loss goes through the student's output of this step."""
        if not self.forwards:
            return False
        if not self._edges:
            self._edges = [get_gradient_edge(one) for one in _tensors(self.output) if one.requires_grad]
        wanted = {edge.node for edge in self._edges}
        if loss.grad_fn is None:
            return False
        seen, waiting = {loss.grad_fn}, [loss.grad_fn]
        while waiting:
            node = waiting.pop()
            if node in wanted:
                return True
            fresh = [child for child, _ in node.next_functions if child is not None and child not in seen]
            seen.update(fresh)
            waiting.extend(fresh)
        return False

    def refuse(self, other: str) -> None:
        """UsageError for a trained module that is called beside the student that was found by itself."""
        raise UsageError(
            f"training_step calls the modules {self.name!r} and {other!r}, which are both trained, so it is not clear "
            f"what the student is: say which, as in DistillationCallback(distiller, student={self.name!r}), or make "
            "one module of them"
        )


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        items: Iterable[Any] = value.values()
    elif isinstance(value, (tuple, list)):
        items = value
    else:
        items = vars(value).values() if hasattr(value, "__dict__") else ()
    return [item for item in items if isinstance(item, Tensor)]


class _Begin(ForwardHook):
    """On the student, before its forward."""

    def __init__(self, capture: Capture) -> None:
        self.capture = capture

    def __call__(self, module: nn.Module, args: Any) -> None:
        if self.capture.counts():
            self.capture._inside = True


class _End(_Begin):
    """On the student, after its forward."""

    def __call__(self, module: nn.Module, args: Any, kwargs: Any = None, output: Any = None) -> None:
        if self.capture.counts():
            self.capture.keep(args, kwargs, output)


class _Other(_Begin):
    """On another trained child, after its forward."""

    def __init__(self, capture: Capture, name: str) -> None:
        super().__init__(capture)
        self.name = name

    def __call__(self, module: nn.Module, args: Any, output: Any = None) -> None:
        if self.capture.counts() and not self.capture._inside:
            self.capture.refuse(self.name)
