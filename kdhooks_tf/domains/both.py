"""Both domains' features at one step: the source's from the user's forward, the target's from one of ours.

Rules: the target's batch goes through the student once a step, with ``training=True``. What other criteria look at is
not disturbed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from kdhooks.config.layer_taps import LayerTap
from kdhooks.criterion import Step
from kdhooks.domains.sections import MISSING
from kdhooks.errors import ModelError, UsageError
from kdhooks_tf.data import as_tensors
from kdhooks_tf.layer_mappings import tensors_of
from kdhooks_tf.outputs import as_call, describe, logits_of, tensors_of_nest
from kdhooks_tf.taps import Taps

Tensor = Any


@dataclass
class Domain:
    """What one domain's batch gave.

    Attributes:
        features: by tap.
        logits: [N, C] or [N, ..., C].
        labels: [N] or [N, ...], or None.
    """

    features: Mapping[LayerTap, Tensor]
    logits: Tensor
    labels: Any


class BothDomains:
    """Runs the target's batch and reads both domains' features.

    Args:
        taps: of the student.
        features: what is read of both.
        joint: whether both domains go through the student in one batch.
        outputs: what a mapping calls its logits.
    """

    def __init__(self, taps: Taps, features: Iterable[LayerTap], *, joint: bool, outputs: Sequence[str]) -> None:
        self.taps, self._joint, self._outputs = taps, joint, outputs
        self.features = list(dict.fromkeys(features))

    def attach(self) -> None:
        """Put shims on the layers."""
        self.taps.attach([tap.key for tap in self.features])

    def at(self, step: Step) -> tuple[Domain, Domain]:
        """The source's and the target's batch of a step.

        Raises:
            UsageError: there is no batch of the target.
            LayerError, ModelError: a layer that did not run, or features whose first axis is not that of the batch.
        """
        if step.target_input is None:
            raise UsageError(MISSING)
        if self._joint:
            return self._in_one(step)
        source = self.read(step.student_output, step.target)
        with self.taps.aside():
            return source, self.read(self._forward(step.target_input, step), step.target_labels)

    def _in_one(self, step: Step) -> tuple[Domain, Domain]:
        """One more forward, of both: BatchNorm takes its statistics over all rows."""
        given, other = as_tensors(step.input), as_tensors(step.target_input)
        rows, more = rows_of(given, "input"), rows_of(other, "target_input")
        with self.taps.aside():
            both = self.read(self._forward(joined(given, other), step), None)
        parts = [rows, more]
        return _part(both, parts, 0, step.target), _part(both, parts, 1, step.target_labels)

    def _forward(self, given: Any, step: Step) -> Any:
        student = self.taps.model
        args, kwargs = as_call(student, given)
        with step.ledger.part("student"):
            return student(*args, training=True, **kwargs)

    def read(self, output: Any, labels: Any) -> Domain:
        """What the last forward gave."""
        features = {tap: tensors_of(tap, self.taps, "last")[0] for tap in self.features}
        return Domain(features, logits_of(output, self._outputs), labels)


def _part(both: Domain, rows: list[Any], index: int, labels: Any) -> Domain:
    def part(what: str, value: Tensor) -> Tensor:
        known, first = value.shape[0] if value.shape.rank else 0, rows[0] + rows[1]
        if isinstance(first, int) and known not in (None, first):
            raise ModelError(
                f"joint_forward: {what} is {describe(value)}, whose first axis does not count the {rows[0]} rows of "
                f"input and {rows[1]} of target_input"
            )
        return value[rows[0] :] if index else value[: rows[0]]

    features = {tap: part(f"layer {tap}", value) for tap, value in both.features.items()}
    return Domain(features, part("the student's output", both.logits), labels)


def rows_of(given: Any, what: str) -> Any:
    """How many rows a batch has: the first axis of its first tensor, a scalar tensor where it is not known yet.

    Raises:
        ModelError: it holds no tensor.
    """
    for tensor in tensors_of_nest(given):
        if tensor.shape.rank:
            return tf.shape(tensor)[0] if tensor.shape[0] is None else tensor.shape[0]
    raise ModelError(f"joint_forward: {what} is {describe(given)}, in which there is no tensor with rows")


def joined(source: Any, target: Any) -> Any:
    """Both batches as one, the source's rows first.

    Raises:
        ModelError: they have different forms.
    """
    if tf.is_tensor(source) and tf.is_tensor(target) and source.shape[1:].is_compatible_with(target.shape[1:]):
        return tf.concat([source, target], 0)
    if isinstance(source, Mapping) and isinstance(target, Mapping) and set(source) == set(target):
        return {key: joined(value, target[key]) for key, value in source.items()}
    both = (tuple, list)
    if isinstance(source, both) and isinstance(target, both) and len(source) == len(target):
        return tuple(joined(one, other) for one, other in zip(source, target, strict=True))
    raise ModelError(
        f"joint_forward needs batches of one form: input is {describe(source)} and target_input is {describe(target)}"
    )
