"""The student's own loss in the built-in loop: ``loss_types[0]`` between its output and the labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from kdhooks.config import DistillationConf
from kdhooks.datasets import UNLABELLED
from kdhooks.errors import KDHooksError, ModelError
from kdhooks.loop.postprocess import Postprocess
from kdhooks.names import did_you_mean
from kdhooks_tf.losses.target import TARGET_LOSSES
from kdhooks_tf.outputs import describe, logits_of

Tensor = Any


class StudentLoss:
    """A loss against the labels, by name; a loss that the model's output brings along is not used.

    Args:
        name: of `kdhooks_tf.losses.TARGET_LOSSES`.
        postprocess: changes output and target first.
        outputs: keys or attributes of the output that hold the logits.
        from_logits: False where the student returns probabilities, whose logarithms then are the logits.

    Example:
        >>> loss = StudentLoss("CE", lambda output, target: (output, target))
        >>> round(float(loss(tf.zeros([2, 4]), tf.constant([0, 1]))), 4)
        1.3863
    """

    def __init__(
        self, name: str, postprocess: Postprocess, outputs: Sequence[str] = (), *, from_logits: bool = True
    ) -> None:
        self.name = name
        self._loss = TARGET_LOSSES[name]
        self._postprocess, self._outputs, self._from_logits = postprocess, tuple(outputs), from_logits

    def __call__(self, output: Any, target: Any, mask: Any = None, sample_weight: Any = None) -> Tensor:
        """The loss, a scalar.

        Args:
            output: what the student returned: logits [N, C], [N, T, C], [N, H, W, C], or what holds them.
            target: labels of the positions, or what the loss takes.
            mask: positions that count, of the target's shape.
            sample_weight: [N], or the shape of the positions.

        Raises:
            ModelError: output and target don't fit the loss.
        """
        output, target = self._postprocess(output, target)
        logits = logits_of(output, self._outputs, from_logits=self._from_logits)
        if logits.dtype in (tf.float16, tf.bfloat16):
            logits = tf.cast(logits, tf.float32)
        if not tf.is_tensor(target):
            raise ModelError(f"the student's loss {self.name} needs a target that is a tensor, not {describe(target)}")
        if mask is not None and mask.shape.rank == target.shape.rank and not target.dtype.is_floating:
            target = tf.where(tf.cast(mask, tf.bool), target, tf.cast(UNLABELLED, target.dtype))
        try:
            return self._loss(logits, target, sample_weight)
        except KDHooksError:
            raise
        except (tf.errors.InvalidArgumentError, ValueError, TypeError) as error:
            told = (str(error).splitlines() or [""])[0]
            raise ModelError(
                f"the student's loss {self.name} can't take {describe(logits)} of logits and {describe(target)} of "
                f"{target.dtype.name} as target: {told}"
            ) from None


def build_student_loss(
    conf: DistillationConf, name: str, postprocess: Postprocess, *, from_logits: bool = True
) -> StudentLoss:
    """The loss that the first criterion labels the student's own loss with.

    Raises:
        ConfigError: there is no such loss against labels.
    """
    if name in TARGET_LOSSES:
        return StudentLoss(name, postprocess, conf.settings.model.outputs, from_logits=from_logits)
    path = f"{conf.settings.distillation.train.criterion[0].path}.loss_types[0]"
    message = f"there is no loss {name!r} between student and target"
    raise conf.problem(path, message, did_you_mean(name, TARGET_LOSSES, what="Losses against the target"))
