"""What a method of domain adaptation is here: a module that makes a scalar of two domains' batches.

An adapter never runs the student and never touches its optimizer, modes or buffers; features and logits are handed
to it. What it owns (discriminators, auxiliary heads, random maps) is made at the first batch, for its shapes, from
a generator of its own. Everything is computed in float32 or wider, also under autocast, and nothing waits for the
device. The two batches may have different sizes: every mean is taken within its domain.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from kdhooks.adaptation import ADAPTER_RULES, shapes
from kdhooks.errors import ModelError
from kdhooks.names import Table
from kdhooks.torch.adaptation.discriminator import private
from kdhooks.torch.adaptation.features import full_precision, pooled_shape, rows_of, wide


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
            adapters whose encoder is attached.
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
        options: keyword arguments; those of the table `ADAPTER_RULES`, with its defaults and ranges.

    Attributes:
        name: in the table `ADAPTERS`.
        settings: the options, checked.
        adversarial: whether `coefficient` matters.
        layers: fewest and most layers that it looks at; 0 where logits are enough, None where any number goes.
        needs: modules of the student's own ("encoder", "head") that `attach` must bring.
        labelled: whether it needs the source's labels.
        built: whether the first batch has been seen.
    """

    name: ClassVar[str] = ""
    adversarial: ClassVar[bool] = False
    layers: ClassVar[tuple[int, int | None]] = (0, 0)
    needs: ClassVar[tuple[str, ...]] = ()
    labelled: ClassVar[bool] = False

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.settings = ADAPTER_RULES[self.name].read(options) if self.name in ADAPTER_RULES else options
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
            try:
                self.load_state_dict(held)
            except RuntimeError as problem:
                first = str(problem).splitlines()[-1].strip()
                message = f"the state of the adapter {self.name!r} doesn't fit the first batch: {first}"
                raise ModelError(message) from None

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
        for batch in (source, target):
            shapes.check_layers(self.name, len(batch.features), self.layers)
        shapes.check_counts(self.name, len(source.features), len(target.features))
        shapes.check_widths(self.name, "logits", source.logits.shape, target.logits.shape)
        for one, other in zip(source.features, target.features, strict=True):
            shapes.check_widths(self.name, "features", self._pooled(one), self._pooled(other))

    def _pooled(self, feature: Tensor) -> list[int]:
        return pooled_shape(feature.shape, self.settings.get("pool", "flatten"))

    def _rows(self, batch: DomainBatch) -> Tensor:
        """The only feature as rows [N, D]."""
        return rows_of(batch.features[0], self.settings["pool"])

    def _measure(self, name: str, value: Tensor) -> None:
        self._measures[name] = value.detach()

    def _generator(self) -> torch.Generator:
        """The private generator, from its start."""
        return torch.Generator("cpu").manual_seed(private(self.settings["seed"]))

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
        self._held = {
            key[len(prefix) :]: value.detach().clone() if isinstance(value, Tensor) else value
            for key, value in state_dict.items()
            if key.startswith(prefix)
        }

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.update({f"{prefix}{key}": value for key, value in self._held.items()})


def precisely(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Decorates a method of batches so that it runs in float32 or wider, with autocast off."""

    @functools.wraps(method)
    def run(self: Adapter, *batches: DomainBatch) -> Tensor:
        with full_precision(batches[0].logits.device):
            return method(self, *(batch.widened() for batch in batches))

    return run


ADAPTERS: Table[type[Adapter]] = Table("adapter")
"""Every adapter by its lower-case name; names are compared without case, ``_`` and ``-``."""

Made = TypeVar("Made", bound=type[Adapter])


def adapter(name: str) -> Callable[[Made], Made]:
    """Decorates an adapter of the package: puts it into the table, with what `ADAPTER_RULES` says of it."""
    rules = ADAPTER_RULES[name]

    def put(made: Made) -> Made:
        made.name, made.layers, made.adversarial = rules.name, rules.layers, rules.adversarial
        made.needs, made.labelled = rules.modules, rules.labelled
        ADAPTERS.add(rules.name, made)
        return made

    return put
