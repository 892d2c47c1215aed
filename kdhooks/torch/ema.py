"""The mean teacher: a teacher that is the exponential average of the student.

After each step of the student's optimizer θ' = decay · θ' + (1 - decay) · θ for parameters; buffers are the
student's. Tarvainen & Valpola 2017, "Mean teachers are better role models", equation 1. A step is noticed by what
it does to the student's parameters, so a bare loop needs no further call and a skipped step is none.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.criterion import Step
from kdhooks.errors import CheckpointError, ModelError
from kdhooks.torch.sharding import gather_nothing, is_sharded, load_whole_state, whole_state, written
from kdhooks.torch.shards import sharded_like
from kdhooks.torch.taps import Key, drop_dead_hooks
from kdhooks.torch.teacher import Teacher
from kdhooks.torch.wrappers import inside


class MeanTeacher(Teacher):
    """A teacher that follows the student.

    Args:
        student: whose average it is.
        decay: the share of the old average that stays.
        model: what to begin from, of the student's own architecture; None is a copy of the student.
        speed: how it runs, as for any teacher: ``precision``, ``channels_last`` and so on.

    Raises:
        ModelError: `model` has other parameters than the student.
    """

    changes = True

    def __init__(
        self,
        student: nn.Module,
        decay: float,
        model: nn.Module | None = None,
        **speed: Any,
    ) -> None:
        root = inside(student)
        if model is None and is_sharded(root):
            model = sharded_like(root, whole_state(root))
        elif model is None:
            model = copy.deepcopy(root)
            model.zero_grad(set_to_none=True)
            drop_dead_hooks(*model.modules())
        elif _shapes(inside(model)) != _shapes(root):
            raise ModelError(
                f"with ema the teacher is an average of the student, and {type(inside(model)).__name__} has other "
                f"parameters than {type(root).__name__}"
            )
        if is_sharded(inside(model)) != is_sharded(root):
            raise ModelError(
                "with ema the teacher is an average of the student, and one of them is sharded: shard both alike"
            )
        super().__init__(model, student, **speed)
        self.decay = decay
        self._root = root
        self._sharded = is_sharded(root)
        self._shards: list[list[nn.Parameter]] = [[], []]
        self._seen: list[int] | None = None  # None until the first loss: weights may be loaded before it

    def on_train_begin(self) -> None:
        """Freeze the average; it begins to follow with the student's next step."""
        super().on_train_begin()
        gather_nothing(self._root)
        self._shards = [list(inside(self.model).parameters()), list(self._root.parameters())]
        self._seen = None

    def on_step_end(self) -> None:
        """The optimizer has stepped."""
        self.follow()

    def on_epoch_end(self) -> None:
        """Take in the epoch's last step."""
        self.follow()
        super().on_epoch_end()

    def on_train_end(self) -> None:
        """Take in the last step, and leave the average as an ordinary model."""
        if self._own:
            self.follow()
        super().on_train_end()

    def __call__(self, value: Any, step: Step | None = None) -> Any:
        """The average's output."""
        self.follow()
        return super().__call__(value)

    def features(self, value: Any, layers: frozenset[Key], step: Step | None = None) -> None:
        """Capture layers of the average."""
        self.follow()
        super().features(value, layers)

    @torch.no_grad()
    def follow(self) -> None:
        """Take in the student's last step, if there was one since the last call."""
        versions = self._versions()
        before, self._seen = self._seen, versions
        if before is None or versions == before:
            return
        mine, theirs = self._parameters()
        floats = [index for index, one in enumerate(mine) if one.is_floating_point()]
        torch._foreach_lerp_([mine[index] for index in floats], [theirs[index] for index in floats], 1 - self.decay)
        for buffer, other in zip(inside(self.model).buffers(), self._root.buffers(), strict=True):
            buffer.copy_(other)
        gather_nothing(self.model)  # what was gathered is the average before

    def _parameters(self) -> list[list[nn.Parameter]]:
        """The average's and the student's; of sharded ones the shards, which a module does not hold all the time."""
        if self._sharded:
            return self._shards
        return [list(inside(self.model).parameters()), list(self._root.parameters())]

    def state_dict(self) -> dict[str, Tensor]:
        """The average."""
        if self._seen is not None:
            self.follow()
        if self._sharded:
            return whole_state(inside(self.model))
        return {name: value.clone() for name, value in inside(self.model).state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a saved average; CheckpointError where it is of another model."""
        try:
            load_whole_state(inside(self.model), state)
        except RuntimeError:
            raise CheckpointError("the state holds the average of another student") from None
        self._seen = None

    def _versions(self) -> list[int]:
        """How often each trained parameter was written to."""
        return [written(one) for one in self._parameters()[1] if one.requires_grad]


def _shapes(model: nn.Module) -> list[tuple[str, tuple[int, ...]]]:
    return [(name, tuple(parameter.shape)) for name, parameter in model.named_parameters()]
