"""L2-SP: weights stay near those that they began from.

Li, Grandvalet & Davoine 2018, "Explicit inductive bias for transfer learning with convolutional networks", equation 3:
``alpha / 2 ||w_S - w_S0||² + beta / 2 ||w_new||²``, where w_S are the weights that were transferred, w_S0 their values
before training, and w_new all others.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.config.finetune_settings import Scheduled
from kdhooks.criterion import Step
from kdhooks.errors import CheckpointError
from kdhooks.pairs.bound import Bound
from kdhooks.schedules import constant_value
from kdhooks.transfer import StartingPoint


class StartingPointCriterion(StartingPoint):
    """What L2-SP and DELTA share in PyTorch."""

    def bind(self, bound: Bound) -> None:
        """Take the student of a run."""
        self._model = bound.student.root

    def decay(self, step: Step) -> Tensor:
        """Half the squared norm of the parameters that were not transferred."""
        return half_squares([one for name, one in self._named() if not self._is_transferred(name)], self._student())

    def _named(self, *, frozen: bool = False) -> list[tuple[str, nn.Parameter]]:
        """The student's trained parameters by name; those that are frozen too where they are asked for."""
        named = self._student().named_parameters()
        return [(name.replace("_orig_mod.", ""), one) for name, one in named if frozen or one.requires_grad]


class L2SP(StartingPointCriterion):
    """Weights stay near those that they began from (Li, Grandvalet & Davoine 2018, equation 3).

    Args:
        weight: alpha, a number or a schedule.
        new_weight: beta, the same for what was not transferred.
        transferred: names of the student's parameters that come from the source; None means all.

    Its components are ``L2-SP`` and ``L2-SP.new``, both unweighted. The starting point is the student when a run
    begins; it is held in memory once more, and in `state_dict()`.
    """

    name = "L2-SP"

    def __init__(
        self, weight: Scheduled = 0.01, new_weight: Scheduled = 0.01, *, transferred: Collection[str] | None = None
    ) -> None:
        super().__init__(weight, new_weight, transferred)
        self._start: dict[str, Tensor] = {}

    def on_train_begin(self) -> None:
        """Remember where the student begins, frozen layers too: they may be set free later."""
        self._start = {
            name: one.detach().clone()
            for name, one in self._named(frozen=True)
            if constant_value(self._weight) != 0 and self._is_transferred(name)
        }

    def on_train_end(self) -> None:
        """Let go of the starting point's memory."""
        self._model = None

    def value(self, step: Step) -> Tensor:
        """Half the squared distance to the starting point."""
        moved = [one - self._placed(name, one) for name, one in self._named() if name in self._start]
        return half_squares(moved, self._student())

    def _placed(self, name: str, parameter: Tensor) -> Tensor:
        start = self._start[name]
        if start.device != parameter.device:
            start = self._start[name] = start.to(parameter.device)
        return start

    def state_dict(self) -> dict[str, Any]:
        """The starting point, and what is part of it: a run that goes on transfers nothing."""
        return {**super().state_dict(), "start": dict(self._start)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a saved run's starting point; CheckpointError where it is of another student."""
        super().load_state_dict(state)
        own, start = dict(self._named(frozen=True)), state.get("start", {})
        if any(name not in own or own[name].shape != one.shape for name, one in start.items()):
            raise CheckpointError("the state holds the starting point of another student")
        self._start = {name: one.to(own[name].device, copy=True) for name, one in start.items()}


def half_squares(tensors: Sequence[Tensor], model: nn.Module) -> Tensor:
    """Half the sum of squares of all numbers in tensors, a scalar in float32 or wider, where the first of them is."""
    if not tensors:
        anchor = next(model.parameters())
        return anchor.new_zeros((), dtype=torch.promote_types(anchor.dtype, torch.float32))
    first = tensors[0]
    sums = [one.to(torch.promote_types(one.dtype, torch.float32)).square().sum().to(first.device) for one in tensors]
    total: Tensor = torch.stack(sums).sum() / 2
    return total
