"""Both domains' features at one step: the source's from the user's forward, the target's from one of ours.

Rules: the target's batch goes through the student once a step, in the mode and under the autocast that the loop has.
The user's own model is called, without DistributedDataParallel around it, whose bookkeeping allows one forward a
backward; gradients meet in the same parameters. What other criteria look at is not disturbed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdhooks.config.layer_taps import LayerTap
from kdhooks.criterion import Step
from kdhooks.domains.sections import MISSING
from kdhooks.errors import LayerError, ModelError, UsageError
from kdhooks.torch.layer_mappings import tensors_of
from kdhooks.torch.outputs import as_call, describe, logits_of, map_tensors
from kdhooks.torch.taps import Taps

ROOT = LayerTap("")


@dataclass
class Domain:
    """What one domain's batch gave.

    Attributes:
        features: by tap.
        arguments: what layers were called with, by tap.
        logits: [N, C] or [N, C, ...].
        labels: [N] or [N, ...], or None.
    """

    features: Mapping[LayerTap, Tensor]
    arguments: Mapping[LayerTap, tuple[Any, ...]]
    logits: Tensor
    labels: Tensor | None


class BothDomains:
    """Runs the target's batch and reads both domains' features.

    Args:
        taps: of the student.
        features: what is read of both.
        arguments: layers whose positional arguments are read.
        joint: whether both domains go through the student in one batch.
        outputs: what a mapping calls its logits.
        located: makes the error for a layer that did not run, of its path, what is wrong and what to do.
    """

    def __init__(
        self,
        taps: Taps,
        features: Iterable[LayerTap],
        arguments: Iterable[LayerTap],
        *,
        joint: bool,
        outputs: Sequence[str],
        located: Callable[[str, str, str], Exception],
    ) -> None:
        self._located = located
        self.taps, self._joint, self._outputs = taps, joint, outputs
        self.features, self.arguments = list(dict.fromkeys(features)), list(dict.fromkeys(arguments))

    def attach(self) -> None:
        """Put hooks on the layers."""
        wanted = [*self.features, *self.arguments, *([ROOT] if self._joint else [])]
        self.taps.attach([tap.key for tap in wanted])

    def at(self, step: Step) -> tuple[Domain, Domain]:
        """The source's and the target's batch of a step.

        Raises:
            UsageError: there is no batch of the target.
            ModelError: features whose first axis is not that of the batch.
        """
        if step.target_input is None:
            raise UsageError(MISSING)
        return self._in_one(step) if self._joint else self._in_two(step)

    def _in_two(self, step: Step) -> tuple[Domain, Domain]:
        logits = logits_of(step.student_output, self._outputs)
        source = self.read(logits, step.target)
        with self.taps.aside():
            output = self._forward(step.target_input, step)
            return source, self.read(logits_of(output, self._outputs), step.target_labels)

    def _in_one(self, step: Step) -> tuple[Domain, Domain]:
        """One forward of both: the user's own where it had all rows, or one more."""
        rows, more = rows_of(step.input, "input"), rows_of(step.target_input, "target_input")
        seen = self.taps.slots[ROOT.key].read()
        if seen and len(logits_of(seen[-1], self._outputs)) == rows + more:
            both = self.read(logits_of(seen[-1], self._outputs), None)
        else:
            with self.taps.aside():
                output = self._forward(joined(step.input, step.target_input), step)
                both = self.read(logits_of(output, self._outputs), None)
        return self._part(both, rows, more, step.target, 0), self._part(both, rows, more, step.target_labels, 1)

    def _forward(self, given: Any, step: Step) -> Any:
        model: nn.Module = self.taps.model
        while isinstance(model, DistributedDataParallel):
            model = model.module
        args, kwargs = as_call(given)
        with step.ledger.part("student"):
            return model(*args, **kwargs)

    def read(self, logits: Tensor, labels: Any) -> Domain:
        """What the last forward gave."""
        features = {tap: self._tensor(tap) for tap in self.features}
        arguments = {tap: self._arguments(tap) for tap in self.arguments}
        return Domain(features, arguments, logits, labels if isinstance(labels, Tensor) else None)

    def _tensor(self, tap: LayerTap) -> Tensor:
        try:
            return tensors_of(tap, self.taps, "last")[0]
        except LayerError as error:
            raise self._located(tap.path, error.message, error.advice) from None

    def _arguments(self, tap: LayerTap) -> tuple[Any, ...]:
        calls = self.taps.slots[tap.key].read()
        if not calls:
            self._tensor(tap)  # says why the layer has none
        value = calls[-1]
        if isinstance(value, Mapping):
            raise ModelError(
                f"student {self.taps.kind}: layer {tap.layer!r} is called with the keyword arguments "
                f"{', '.join(map(str, value))}, and a copy of it is called with positional ones only"
            )
        return value if isinstance(value, tuple) else (value,)

    def _part(self, both: Domain, rows: int, more: int, labels: Any, index: int) -> Domain:
        def part(what: str, value: Any) -> Any:
            if isinstance(value, Tensor) and (value.ndim == 0 or len(value) != rows + more):
                raise ModelError(
                    f"joint_forward: {what} is {describe(value)}, whose first axis does not count the {rows} rows of "
                    f"input and {more} of target_input"
                )
            return value.split([rows, more])[index] if isinstance(value, Tensor) else value

        return Domain(
            {tap: part(f"layer {tap}", value) for tap, value in both.features.items()},
            {tap: tuple(part(f"layer {tap}", one) for one in value) for tap, value in both.arguments.items()},
            part("the student's output", both.logits),
            labels if isinstance(labels, Tensor) else None,
        )


def rows_of(given: Any, what: str) -> int:
    """How many rows a batch has: the first axis of its first tensor.

    Raises:
        ModelError: it holds no tensor.
    """
    found: list[int] = []

    def note(tensor: Tensor) -> Tensor:
        found.extend(tensor.shape[:1])
        return tensor

    map_tensors(note, given)
    if not found:
        raise ModelError(f"joint_forward: {what} is {describe(given)}, in which there is no tensor with rows")
    return found[0]


def joined(source: Any, target: Any) -> Any:
    """Both batches as one, the source's rows first.

    Raises:
        ModelError: they have different forms.
    """
    if isinstance(source, Tensor) and isinstance(target, Tensor) and source.shape[1:] == target.shape[1:]:
        return torch.cat([source, target])
    if isinstance(source, Mapping) and isinstance(target, Mapping) and set(source) == set(target):
        return {key: joined(value, target[key]) for key, value in source.items()}
    both = (tuple, list)
    if isinstance(source, both) and isinstance(target, both) and len(source) == len(target):
        return tuple(joined(one, other) for one, other in zip(source, target, strict=True))
    if not isinstance(source, Tensor) and not isinstance(target, Tensor) and source is target:
        return source
    raise ModelError(
        f"joint_forward needs batches of one form: input is {describe(source)} and target_input is {describe(target)}"
    )


def first_rows(output: Any, rows: int, more: int) -> Any:
    """What a model gave for the first rows of a joint batch: its tensors that count rows in their first axis."""

    def cut(tensor: Tensor) -> Tensor:
        return tensor[:rows] if tensor.ndim and len(tensor) == rows + more else tensor

    return map_tensors(cut, output)
