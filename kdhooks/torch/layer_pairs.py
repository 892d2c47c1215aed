"""Pairs of layers at work: captured, matched, compared, trained and saved.

What a pair's modules own trains as a guest of the loop's optimizer (`guests`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdhooks.criterion import Step
from kdhooks.errors import CheckpointError, ModelError
from kdhooks.pairs.at_work import PairsAtWork
from kdhooks.pairs.bound import Bound, Locate
from kdhooks.pairs.masks import FeatureMask
from kdhooks.pairs.options import PairOptions
from kdhooks.torch.balance import gradient_ratio
from kdhooks.torch.guests import Guests
from kdhooks.torch.layer_mappings import VALUES
from kdhooks.torch.monitor import Monitor
from kdhooks.torch.outputs import as_call, constant, runs_ahead
from kdhooks.torch.pair_modules import PairModules, Shape, parameter_dtype


class LayerPairs(PairsAtWork):
    """The pairs of one criterion on the models of one run.

    Args:
        options: what the user wrote.
        bound: the models.
        teacher: the one that is followed.
        locate: makes errors.
        mask: the option ``feature_mask``.
        balanced: whether `ratio` will be asked for.
    """

    values = VALUES

    def __init__(
        self,
        options: PairOptions,
        bound: Bound,
        teacher: str,
        locate: Locate,
        mask: FeatureMask | None = None,
        *,
        balanced: bool = False,
    ) -> None:
        super().__init__(options, bound, teacher, locate, mask)
        self.balanced = balanced
        self._guests = Guests(bound.student.root, bound.optimizer)

    def monitor(self) -> Monitor:
        """An empty monitor, for what is noted about the teacher's features."""
        return Monitor()

    def attach(self) -> None:
        """Put hooks on the layers of both models."""
        super().attach()
        for index in self.options.live() if self.balanced else ():
            for tap in self.pairs[index].students:
                self.bound.student.slots[tap.key].keeps_edges = True

    # ---- a step ------------------------------------------------------------------------------------

    def loss(self, index: int, step: Step) -> Tensor:
        """The unweighted loss of a pair."""
        value: Tensor = super().loss(index, step)
        self._guests.settle()
        self._guests.follow(value)
        return value

    def constants(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> list[Tensor]:
        """The teacher's features of one call without a graph, where the student's are."""
        devices = [feature.device for feature in student]
        beside = [devices[min(level, len(devices) - 1)] for level in range(len(teacher))]
        return [_beside(constant(feature), where) for feature, where in zip(teacher, beside, strict=True)]

    @torch.no_grad()
    def added_up(self, features: Sequence[Tensor]) -> Tensor:
        """A scalar that is finite where features are."""
        wide = torch.promote_types(features[0].dtype, torch.float32)
        sums = [feature.sum(dtype=wide) for feature in features]
        return sums[0] if len(sums) == 1 else torch.stack(sums).sum()

    def mean(self, losses: Sequence[Tensor]) -> Tensor:
        """The mean of several scalars."""
        return torch.stack(list(losses)).mean()

    def gradient_ratio(self, student_loss: Tensor, value: Tensor, keys: Sequence[Any], what: str) -> Tensor:
        """How much harder one loss pulls on the student's layers than another."""
        edges = [edge for key in keys for edge in self.bound.student.slots[key].edges]
        return gradient_ratio(student_loss, value, edges, what)

    def run_student(self, given: Any) -> None:
        """A forward of the student that counts as one before a loss."""
        args, kwargs = as_call(given)
        with torch.enable_grad():
            self.bound.student.root(*args, **kwargs)

    # ---- modules -----------------------------------------------------------------------------------

    def make(self, index: int, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> PairModules:
        """A pair's modules for features of these shapes."""
        mine: list[Shape] = [self.shape(tensor) for tensor in student]
        theirs: list[Shape] = [self.shape(tensor) for tensor in teacher]
        return self._made(index, mine, theirs, parameter_dtype(student[0]), student[0].device)

    def _made(
        self, index: int, student: list[Shape], teacher: list[Shape], dtype: torch.dtype, device: torch.device
    ) -> PairModules:
        options = self.options
        return PairModules(index, options.matchers[index], options.losses[index], student, teacher, dtype, device)

    def trainable(self, modules: PairModules) -> Sequence[nn.Parameter]:
        """The parameters of a pair's modules that learn."""
        return list(modules.parameters())

    def admit(self, index: int, parameters: Sequence[nn.Parameter]) -> None:
        """Train the parameters of a pair from now on."""
        self._guests.add(parameters)

    def leave(self) -> None:
        """Take everything out of the optimizer."""
        self._guests.leave()

    def integer_kind(self, tensor: Tensor) -> str | None:
        """The dtype of a tensor whose values are no floats."""
        return None if tensor.is_floating_point() else str(tensor.dtype).removeprefix("torch.")

    def shape(self, tensor: Tensor) -> list[Any]:
        """A tensor's shape."""
        return list(tensor.shape)

    # ---- state -------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Shapes, weights and what the optimizer keeps for them; plain data and tensors."""
        made = {
            str(index): {
                "student": modules.shapes[0],
                "teacher": modules.shapes[1],
                "dtype": str(modules.dtype).removeprefix("torch."),
                "weights": dict(modules.state_dict()),
            }
            for index, modules in self.modules.items()
        }
        student = self.bound.student
        return {"pairs": len(self.pairs), "modules": made, "slots": self._guests.slots(), "copies": student.copying()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the modules of a saved run, with its weights and what its optimizer kept for them.

        Raises:
            CheckpointError: it is of other pairs, matchers or losses.
        """
        self.check_state(state)
        root = self.bound.student.root
        device = next((parameter.device for parameter in root.parameters()), torch.device("cpu"))
        made: dict[int, PairModules] = {}
        for number, saved in state["modules"].items():
            index, dtype = int(number), getattr(torch, saved["dtype"])
            try:
                shapes = (_levels(saved["student"]), _levels(saved["teacher"]))
                made[index] = self._made(index, *shapes, dtype, device)
                made[index].load_state_dict(saved["weights"])
            except (RuntimeError, ModelError) as error:
                reason = str(error).splitlines()[-1].strip()
                raise CheckpointError(f"the state belongs to other matchers or losses: {reason}") from None
        self.modules = made
        self.bound.student.copy_as(state.get("copies", ()))  # states of older versions have none
        self._guests.leave()
        self._guests.add((parameter for modules in made.values() for parameter in modules.parameters()), state["slots"])


def _levels(saved: Any) -> list[Shape]:
    """The shape of each layer; states of older versions have one shape."""
    return [saved] if saved and isinstance(saved[0], int) else saved


def _beside(teacher: Tensor, device: torch.device) -> Tensor:
    return teacher if teacher.device == device else teacher.to(device, non_blocking=runs_ahead(device))
