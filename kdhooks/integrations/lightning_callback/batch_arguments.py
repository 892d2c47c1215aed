"""What a batch says besides the student's input: labels, masks, keys of rows, another domain's batch.

Rules: without a function nothing is guessed that could be wrong: labels are taken where they are whole numbers of the
shape that logits ask for, and a batch of a form that nobody described says nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from kdhooks.config import DistillationConf
from kdhooks.distillation import Distillation
from kdhooks.errors import DataError, ModelError, UsageError
from kdhooks.loop.batches import split_batch
from kdhooks.names import did_you_mean
from kdhooks.torch.outputs import logits_of

Arguments = Callable[[Any], Mapping[str, Any]]
"""batch -> keyword arguments of `kdhooks.Distillation.on_after_compute_loss`."""

_COMPUTED = ("self", "input", "student_output", "student_loss")
KNOWN = tuple(
    name for name in inspect.signature(Distillation.on_after_compute_loss).parameters if name not in _COMPUTED
)
"""What such a function may return."""


class BatchArguments:
    """Reads batches.

    Args:
        conf: whose ``model.inputs`` and ``dataloader.input_columns`` say what a batch holds.
        function: the user's own, or None.
    """

    def __init__(self, conf: DistillationConf, function: Arguments | None = None) -> None:
        columns = conf.settings.distillation.train.dataloader
        self._inputs = conf.settings.model.inputs
        self._columns = () if columns is None else columns.input_columns
        self._keys = conf.settings.model.outputs
        self._function = function

    def of(self, batch: Any, output: Any) -> dict[str, Any]:
        """The keyword arguments for a batch, and the output of the student for it.

        Raises:
            UsageError: the user's function returned something else.
        """
        return self._described(batch, output) if self._function is None else self._asked(batch)

    def _asked(self, batch: Any) -> dict[str, Any]:
        assert self._function is not None
        found = self._function(batch)
        if not isinstance(found, Mapping):
            raise UsageError(
                f"arguments must return a mapping such as {{'target': labels}}, and it returned a "
                f"{type(found).__name__}"
            )
        for name in found:
            if name not in KNOWN:
                hint = did_you_mean(str(name), KNOWN, what="Known")
                raise UsageError(f"arguments returned {name!r}, which on_after_compute_loss does not take. {hint}")
        return dict(found)

    def _described(self, batch: Any, output: Any) -> dict[str, Any]:
        try:
            parts = split_batch(batch, inputs=self._inputs, input_columns=self._columns)
        except DataError:
            return {}
        names = ("mask", "sample_ids", "teacher_output", "teacher_features")
        found = {name: value for name in names if (value := getattr(parts, name)) is not None}
        return found | ({"target": parts.target} if self._fits(parts.target, output) else {})

    def _fits(self, target: Any, output: Any) -> bool:
        """Whether a target can be labels: whole numbers of the logits' shape without the axis of classes."""
        if not isinstance(target, Tensor) or target.is_floating_point() or target.is_complex():
            return False
        try:
            shape = logits_of(output, self._keys).shape
        except ModelError:
            return False
        return tuple(target.shape) in ((*shape[:1], *shape[2:]), tuple(shape[:-1]))
