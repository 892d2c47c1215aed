"""The student's own loss in the built-in loop: ``loss_types[0]`` between its output and the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kdhooks.config import DistillationConf
from kdhooks.errors import ModelError
from kdhooks.loop.postprocess import Postprocess
from kdhooks.names import did_you_mean
from kdhooks.torch.losses import TARGET_LOSSES
from kdhooks.torch.outputs import describe, logits_of

NO_LOSS = "none"
"""What the loop's own loss is called where a criterion computes the labels' loss itself."""

UNLABELLED = -100
"""The label of a position that the loss leaves out."""


class StudentLoss:
    """A loss against the labels, by name; a loss that the model's output brings along is not used.

    Args:
        name: of `kdhooks.torch.losses.TARGET_LOSSES`.
        postprocess: changes output and target first.
        outputs: keys or attributes of the output that hold the logits.

    Example:
        >>> loss = StudentLoss("CE", lambda output, target: (output, target))
        >>> float(loss(torch.zeros(2, 4), torch.tensor([0, 1]))) == float(torch.log(torch.tensor(4.0)))
        True
    """

    def __init__(self, name: str, postprocess: Postprocess, outputs: Sequence[str] = ()) -> None:
        self.name = name
        self._loss = TARGET_LOSSES[name]
        self._postprocess, self._outputs = postprocess, tuple(outputs)

    def __call__(self, output: Any, target: Any, mask: Tensor | None = None) -> Tensor:
        """The loss, a scalar.

        Args:
            output: what the student returned: logits [N, C], [N, T, C], [N, C, H, W], or what holds them.
            target: labels of the positions, or what the loss takes.
            mask: positions that count, of the target's shape.

        Raises:
            ModelError: output and target don't fit the loss.
        """
        output, target = self._postprocess(output, target)
        logits = logits_of(output, self._outputs)
        if logits.dtype in (torch.float16, torch.bfloat16):
            logits = logits.float()
        if not isinstance(target, Tensor):
            raise ModelError(f"the student's loss {self.name} needs a target that is a tensor, not {describe(target)}")
        if mask is not None and mask.shape == target.shape and not target.is_floating_point():
            target = target.masked_fill(mask.to(torch.bool).logical_not(), UNLABELLED)
        try:
            return self._loss(logits, target)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            raise ModelError(
                f"the student's loss {self.name} can't take {describe(logits)} of logits and {describe(target)} of "
                f"{target.dtype} as target: {error}"
            ) from None


class NoStudentLoss(StudentLoss):
    """A zero, where a criterion computes the labels' loss itself and the loop's own has weight 0."""

    def __init__(self) -> None:
        self.name = NO_LOSS

    def __call__(self, output: Any, target: Any, mask: Tensor | None = None) -> Tensor:
        """A zero on the target's device."""
        return torch.zeros((), device=target.device if isinstance(target, Tensor) else None)


def build_student_loss(conf: DistillationConf, name: str, postprocess: Postprocess) -> StudentLoss:
    """The loss that the first criterion labels the student's own loss with.

    Raises:
        ConfigError: there is no such loss against labels.
    """
    if name == NO_LOSS:
        return NoStudentLoss()
    if name in TARGET_LOSSES:
        return StudentLoss(name, postprocess, conf.settings.model.outputs)
    path = f"{conf.settings.distillation.train.criterion[0].path}.loss_types[0]"
    message = f"there is no loss {name!r} between student and target"
    raise conf.problem(path, message, did_you_mean(name, TARGET_LOSSES, what="Losses against the target"))
