"""What a method of domain adaptation is here: a module that makes a scalar of two domains' batches.

An adapter never runs the student and never touches its optimizer, modes or buffers; features and logits are handed
to it. What it owns (discriminators, auxiliary heads, random maps) is made at the first batch, for its shapes, from
a generator of its own. Everything is computed in float32 or wider, also under autocast, and nothing waits for the
device. The two batches may have different sizes: every mean is taken within its domain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kdhooks.errors import ModelError
from kdhooks.names import Table


@dataclass(frozen=True, slots=True)
class DomainBatch:
    """What one domain's batch gave in this step.

    Attributes:
        features: at the adapter's layers, in their order, [N, ...].
        logits: the student's output, [N, C] or [N, C, ...].
        labels: [N] or [N, ...], class indices; None for an unlabelled domain.
        head_input: what the module that ``head:`` names was called with, part of the graph; for adapters with
            "head" among their `modules`. None takes the only feature.
        encoder_inputs: the positional arguments that the module that ``encoder:`` names was called with; for
            adapters with "encoder" among their `modules`.
    """

    features: tuple[Tensor, ...]
    logits: Tensor
    labels: Tensor | None = None
    head_input: Tensor | None = None
    encoder_inputs: tuple[Any, ...] = ()

    def widened(self) -> DomainBatch:
        """The same in float32 or wider."""
        head = self.head_input
        return replace(
            self,
            features=tuple(wide(feature) for feature in self.features),
            logits=wide(self.logits),
            head_input=None if head is None else wide(head),
        )


class Adapter(nn.Module):
    """One weighted term of domain adaptation: ``adapter(source, target, coefficient=…)`` is a scalar.

    Args:
        seed: of the private generator that fills what the adapter owns.

    Attributes:
        name: in the table `ADAPTERS`.
        adversarial: whether `coefficient` matters.
        layers: fewest and most layers that it looks at; 0 where logits are enough, None where any number goes.
        modules: of the student's own ("encoder", "head") that `attach` must bring.
        labelled: whether it needs the source's labels.
        built: whether the first batch has been seen.
    """

    name: ClassVar[str]
    adversarial: ClassVar[bool] = False
    layers: ClassVar[tuple[int, int | None]] = (0, 0)
    modules: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = False

    def __init__(self, *, seed: int = 0) -> None:
        super().__init__()
        self.seed = seed
        self.built = False
        self._measures: dict[str, Tensor] = {}
        self._held: dict[str, Any] = {}
        self._students: tuple[nn.Module | None, nn.Module | None] = (None, None)  # a tuple: they stay the student's

    def attach(self, encoder: nn.Module | None, head: nn.Module | None) -> None:
        """Bring the student's own modules, before the first batch; they stay the student's.

        Args:
            encoder: the module that ``encoder:`` names.
            head: the module that ``head:`` names.
        """
        self._students = (encoder, head)

    def build(self, source: DomainBatch, target: DomainBatch) -> None:
        """Make what the adapter owns, for the shapes of the first batch, on its device.

        A state that was loaded before is put in. Building again does nothing.

        Args:
            source: the source's batch.
            target: the target's.

        Raises:
            ModelError: shapes that the method can't do with, or a student's module that is missing.
        """
        if self.built:
            return
        self._check(source, target)
        with torch.no_grad():
            self._make(source.widened(), target.widened())
        self.built = True
        self.to(source.logits.device)
        if self._held:
            held, self._held = self._held, {}
            self.load_state_dict(held)

    def forward(self, source: DomainBatch, target: DomainBatch, *, coefficient: float | Tensor = 1.0) -> Tensor:
        """The unweighted loss of this step, a scalar in float32 or wider.

        Args:
            source: the source's batch.
            target: the target's, of any size.
            coefficient: λ of the gradient reversal, where the method has one.

        Raises:
            ModelError: shapes that don't fit, or labels that are missing.
        """
        self.build(source, target)
        self._check(source, target)
        with full_precision(source.logits.device):
            return self._loss(source.widened(), target.widened(), coefficient)

    def measures(self) -> dict[str, Tensor]:
        """What the last forward measured, detached and on the device: ``domain_accuracy`` of adversarial methods."""
        return dict(self._measures)

    def _check(self, source: DomainBatch, target: DomainBatch) -> None:
        """Raise ModelError for what the method can't take."""

    def _make(self, source: DomainBatch, target: DomainBatch) -> None:
        """Make discriminators, heads and maps; batches are in float32 or wider."""

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        """The formula; batches are in float32 or wider and autocast is off."""
        raise NotImplementedError

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        """A state that comes before the first batch waits for it: the sizes are not known yet."""
        if self.built:
            super()._load_from_state_dict(state_dict, prefix, *rest)
            return
        self._held = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({f"{prefix}{key}": value for key, value in self._held.items()})


ADAPTERS: Table[type[Adapter]] = Table("adapter")
"""Every adapter by its lower-case name; names are compared without case, ``_`` and ``-``."""


def wide(tensor: Tensor) -> Tensor:
    """The tensor in float32 or wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)) if tensor.is_floating_point() else tensor


def full_precision(device: torch.device) -> Any:
    """A context without autocast."""
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else _NOTHING


class _Nothing:
    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


_NOTHING = _Nothing()


def missing_module(adapter: str, module: str) -> ModelError:
    """The error for a module of the student that the method needs and nobody named."""
    return ModelError(
        f"the adapter {adapter!r} needs the student's {module}: name its layer with {module}: in its options"
    )
