"""Parameters of ours as guests in the user's optimizer, so that they train in a loop that knows nothing of them.

They stand at the end of the first parameter group that trains the student, so whatever the loop does to the
optimizer (schedulers, scaling, skipping, clearing, a closure) happens to them as well. Rules: what the user sees
of the optimizer is the user's own: ``state_dict()`` is without guests and loads anywhere, and a state without
guests loads while they are there. Our gradients are cleared by us, after a step and when the loop has cleared
the student's, because ``model.zero_grad()`` does not know them. Ranks that train together average them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import LBFGS, Optimizer
from torch.optim.optimizer import register_optimizer_step_pre_hook

from kdhooks.messages import logger
from kdhooks.torch.flat_state import kept, tails
from kdhooks.torch.optimizer_host import Host, Parameters
from kdhooks.torch.rank_groups import average, check_join, process_group
from kdhooks.torch.sharding import check_still_whole, gather_nothing, is_shard, local_part, unreduced
from kdhooks.torch.wrappers import living

_UNFIT = ("Muon", "SparseAdam")
"""Optimizers that can't train every dense parameter; another one of the loop takes the guests."""


class Guests:
    """Parameters of one criterion, on their way into an optimizer.

    Args:
        student: the model whose optimizer they join.
        optimizer: the loop's optimizer where it is known; otherwise it is found.
        what: what the parameters are of, in messages.

    Attributes:
        parameters: of ours, in the order in which they were added.
        optimizer: whose guests they are, or None.
    """

    def __init__(self, student: nn.Module, optimizer: Any = None, what: str = "feature matchers") -> None:
        self.parameters: Parameters = []
        self.optimizer: Optimizer | None = None
        gather_nothing(student)
        self._student, self._what = student, what
        self._given = _own(optimizer)
        self._theirs = [parameter for parameter in student.parameters() if parameter.requires_grad]
        self._slots: list[Any] = []
        self._watch: Any = None
        self._others = 0
        self._seen_stepping = False
        self._group: Any = None
        self._task = -1
        self._seen: tuple[Tensor, int] | None = None
        self._settled = False

    def add(self, parameters: Iterable[nn.Parameter], slots: Sequence[Any] = ()) -> None:
        """More parameters, and what an optimizer kept for them in a saved run."""
        more = list(parameters)
        if not more:
            return
        self.parameters.extend(more)
        self._slots += list(slots)
        if self.optimizer is not None:
            self._admit(self.optimizer, more, slots)
        elif self._given is not None:
            self.settle()

    def settle(self) -> None:
        """Find the optimizer and the ranks; called at every loss, works once."""
        if self._watch is not None and self._seen_stepping:  # a hook can't take itself off while it runs
            self._watch.remove()
            self._watch = None
        if self._settled or not self.parameters:
            return
        self._settled = True
        check_still_whole(self._student, self._theirs)
        found = living(Optimizer, DistributedDataParallel)
        self._group = process_group(self._student, found)
        check_join(self._student, found, self._what)
        optimizers = self._usable(found)
        ours = {id(parameter) for parameter in self.parameters}
        if any(_holds(optimizer, ours) for optimizer in optimizers):
            return  # the user took them in: `parameters()` is the explicit way
        if self._given is not None:
            self._join(self._given)
        elif optimizers:
            self._join(max(optimizers, key=self._count))
        self._watch = register_optimizer_step_pre_hook(self._see_step)

    def leave(self) -> None:
        """Take everything out of the optimizer; a second call does nothing."""
        if self._watch is not None:
            self._watch.remove()
        if self.optimizer is not None:
            Host.of(self.optimizer).dismiss(self.optimizer, self.parameters)
        elif self._settled and self.parameters and self._watch is not None:
            logger.warning(
                "the %s were not trained: no optimizer of the student stepped. Pass the optimizer to "
                "on_train_begin(optimizer=...), or give it distiller.parameters()",
                self._what,
            )
        self._watch = self.optimizer = None
        self._settled, self._seen_stepping, self._others = False, False, 0
        self._slots, self.parameters = [], []

    def slots(self) -> list[Any]:
        """What the optimizer keeps for each parameter, as plain data and tensors."""
        if self.optimizer is None:
            return list(self._slots)
        if isinstance(self.optimizer, LBFGS):
            parameters = self.optimizer.param_groups[0]["params"]
            state = self.optimizer.state.get(parameters[0])
            ours = {id(parameter) for parameter in self.parameters}
            return tails(state, kept(parameters, ours)) if state else []
        host = Host.of(self.optimizer)
        return [host.slot(self.optimizer, parameter) for parameter in self.parameters]

    # ---- whose optimizer ---------------------------------------------------------------------------

    def _usable(self, found: Iterable[Any]) -> list[Optimizer]:
        """The optimizers that train the student, each once, without the wrappers around them."""
        theirs = {id(parameter) for parameter in self._theirs}
        inner = {id(one): one for one in (_own(other) for other in found if isinstance(other, Optimizer)) if one}
        return [one for one in inner.values() if type(one).__name__ not in _UNFIT and _holds(one, theirs)]

    def _count(self, optimizer: Optimizer) -> int:
        theirs = {id(parameter) for parameter in self._theirs}
        return sum(id(parameter) in theirs for group in optimizer.param_groups for parameter in group["params"])

    def _join(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self._admit(optimizer, list(self.parameters), self._slots)

    def _admit(self, optimizer: Optimizer, parameters: Parameters, slots: Sequence[Any]) -> None:
        theirs = {id(parameter) for parameter in self._theirs}
        groups = optimizer.param_groups
        number = next((index for index, one in enumerate(groups) if any(id(p) in theirs for p in one["params"])), 0)
        Host.of(optimizer).admit(optimizer, self.parameters, parameters, number, slots)

    def _see_step(self, optimizer: Optimizer, args: Any, kwargs: Any) -> None:
        """Make sure that the optimizer with our parameters is one that steps."""
        if optimizer is self.optimizer:
            self._seen_stepping = True
        elif not self._seen_stepping and self._usable([optimizer]):
            self._others += 1
            if self.optimizer is None or self._others > 1:
                self._move(optimizer)

    def _move(self, optimizer: Optimizer) -> None:
        slots = self.slots()
        if self.optimizer is not None:
            Host.of(self.optimizer).dismiss(self.optimizer, self.parameters)
        self._slots = slots if not isinstance(optimizer, LBFGS) else []
        for parameter in self.parameters:  # a scaler has not seen these gradients
            parameter.grad = None
        self._join(optimizer)
        self._others = 0

    # ---- gradients ---------------------------------------------------------------------------------

    def follow(self, loss: Tensor) -> None:
        """Look after the gradients of the backward that this loss will have."""
        if loss.requires_grad and self.parameters:
            loss.register_hook(self._backward_begins)

    def _backward_begins(self, gradient: Tensor) -> None:
        task = torch._C._current_graph_task_id()
        if task == self._task:
            return
        self._task = task
        if self._cleared():
            for parameter in self.parameters:
                parameter.grad = None
        elif self._group is not None:
            self._clear_with_zeros()
        engine: Any = torch.autograd.Variable._execution_engine
        engine.queue_callback(self._backward_ends)

    def _cleared(self) -> bool:
        """Whether the loop has cleared or used up the student's gradients since the last backward."""
        gradient = next((one.grad for one in self._theirs if one.grad is not None), None)
        if gradient is None:
            return not unreduced(self._student)  # of a sharded model it may wait to be exchanged
        if self._seen is None or self._group is not None:  # DDP writes gradients after our look at them
            return False
        return gradient is self._seen[0] and gradient._version != self._seen[1]

    def _clear_with_zeros(self) -> None:
        """Clear ours where the loop has filled the student's gradients with zeros; the device decides, unasked."""
        gradient = next((one.grad for one in self._theirs if one.grad is not None), None)
        if gradient is None:
            return
        used = local_part(gradient).ne(0).any()
        if is_shard(gradient):  # the part of another rank may hold what is not zero
            count = used.to(torch.int64)
            torch.distributed.all_reduce(count, torch.distributed.ReduceOp.MAX, group=self._group)
            used = count.to(torch.bool)
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad = torch.where(used.to(parameter.device), parameter.grad, 0.0)

    def _backward_ends(self) -> None:
        gradient = next((one.grad for one in self._theirs if one.grad is not None), None)
        self._seen = None if gradient is None else (gradient, gradient._version)
        if self._group is not None:
            average([parameter for parameter in self.parameters if parameter.requires_grad], self._group)


def _own(optimizer: Any) -> Optimizer | None:
    """The optimizer itself, where another library has put a wrapper around it."""
    for _ in range(4):
        inner = vars(optimizer).get("optimizer", vars(optimizer).get("_optimizer")) if _has_dict(optimizer) else None
        if not isinstance(inner, Optimizer):
            break
        optimizer = inner
    return optimizer if isinstance(optimizer, Optimizer) else None


def _has_dict(value: Any) -> bool:
    return hasattr(value, "__dict__")


def _holds(optimizer: Optimizer, parameters: set[int]) -> bool:
    groups: Sequence[Mapping[str, Any]] = optimizer.param_groups
    return any(id(parameter) in parameters for group in groups for parameter in group["params"])
