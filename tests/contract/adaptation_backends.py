"""What the contract of domain adaptation needs of a backend: NumPy in, NumPy out.

A backend that lacks a method leaves its name out of `names`; one with channels last turns maps round itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from tests.contract.oracle import Array


@dataclass(frozen=True)
class Domain:
    """One domain's batch.

    Attributes:
        features: [N, ...] of each layer.
        logits: [N, C].
        labels: [N], or None.
        encoder_input: [N, D], what the encoder was called with.
    """

    features: tuple[Array, ...]
    logits: Array
    labels: Array | None = None
    encoder_input: Array | None = None


@dataclass
class Found:
    """What an adapter made of two batches.

    Attributes:
        value: of the loss.
        slopes: gradients by ``source.features.0``, ``target.logits`` and so on; zeros where there is none.
        layers: weights [out, in] and biases of the discriminator or second head.
        layer_slopes: their gradients.
        head_slopes: those of the student's own head.
        maps: random maps [D, d] and [C, d], or None.
        measures: by name.
    """

    value: float
    slopes: dict[str, Array]
    layers: list[tuple[Array, Array]] = field(default_factory=list)
    layer_slopes: list[tuple[Array, Array]] = field(default_factory=list)
    head_slopes: list[Array] = field(default_factory=list)
    maps: tuple[Array, Array] | None = None
    measures: dict[str, float] = field(default_factory=dict)


class AdaptationBackend(Protocol):
    """One framework, seen through NumPy, in float64."""

    @property
    def names(self) -> frozenset[str]:
        """Its adapters."""

    def formula(self, name: str, *inputs: Array, **options: Any) -> tuple[float, list[Array]]:
        """Value and gradients of a public function such as ``mk_mmd``."""

    def adapter(
        self,
        name: str,
        source: Domain,
        target: Domain,
        *,
        coefficient: float = 1.0,
        head: tuple[Array, Array] | None = None,
        encoder: tuple[Array, Array] | None = None,
        **options: Any,
    ) -> Found:
        """An adapter's first step; a head and an encoder are linear, the encoder with tanh behind."""


class TorchAdaptation:
    """PyTorch on the CPU."""

    @property
    def names(self) -> frozenset[str]:
        from kdhooks.torch.adaptation import ADAPTERS

        return frozenset(ADAPTERS)

    def formula(self, name: str, *inputs: Array, **options: Any) -> tuple[float, list[Array]]:
        import torch

        from kdhooks.torch import adaptation

        leaves = [torch.tensor(one, requires_grad=True) for one in inputs]
        value = getattr(adaptation, name)(*leaves, **options)
        assert value.shape == () and value.dtype == torch.float64
        return float(value.detach()), [one.numpy() for one in torch.autograd.grad(value, leaves)]

    def adapter(
        self,
        name: str,
        source: Domain,
        target: Domain,
        *,
        coefficient: float = 1.0,
        head: tuple[Array, Array] | None = None,
        encoder: tuple[Array, Array] | None = None,
        **options: Any,
    ) -> Found:
        import torch
        from torch import nn

        from kdhooks.torch.adaptation import ADAPTERS

        student = _linear(head), None if encoder is None else nn.Sequential(_linear(encoder), nn.Tanh())
        made: Any = ADAPTERS[name](**options)
        made.attach(student[1], student[0])
        leaves: dict[str, Any] = {}
        batches = [_batch(one, side, leaves) for one, side in ((source, "source"), (target, "target"))]
        value = made(*batches, coefficient=coefficient)
        own = {key: one for key, one in made.named_parameters() if not key.startswith("source_encoder")}
        given = [*leaves.values(), *own.values(), *([] if student[0] is None else student[0].parameters())]
        slopes = [np.zeros(leaf.shape) for leaf in given]
        if value.requires_grad:
            for at, one in enumerate(torch.autograd.grad(value, given, allow_unused=True)):
                slopes[at] = slopes[at] if one is None else one.numpy()
        ours = slopes[len(leaves) : len(leaves) + len(own)]
        numbers = [one.detach().numpy() for one in own.values()]
        return Found(
            float(value.detach()),
            dict(zip(leaves, slopes, strict=False)),
            _paired(numbers),
            _paired(ours),
            slopes[len(leaves) + len(own) :],
            (made.feature_map.numpy(), made.class_map.numpy()) if getattr(made, "maps", False) else None,
            {key: float(one) for key, one in made.measures().items()},
        )


def _linear(numbers: tuple[Array, Array] | None) -> Any:
    import torch
    from torch import nn

    if numbers is None:
        return None
    layer = nn.Linear(numbers[0].shape[1], numbers[0].shape[0], dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(numbers[0]))
        layer.bias.copy_(torch.tensor(numbers[1]))
    return layer


def _batch(domain: Domain, side: str, leaves: dict[str, Any]) -> Any:
    import torch

    from kdhooks.torch.adaptation import DomainBatch

    features = [torch.tensor(one, requires_grad=True) for one in domain.features]
    logits = torch.tensor(domain.logits, requires_grad=True)
    leaves.update({f"{side}.features.{index}": one for index, one in enumerate(features)})
    leaves[f"{side}.logits"] = logits
    labels = None if domain.labels is None else torch.tensor(domain.labels)
    inputs = () if domain.encoder_input is None else (torch.tensor(domain.encoder_input),)
    return DomainBatch(tuple(features), logits, labels, None, inputs)


def _paired(numbers: Sequence[Array]) -> list[tuple[Array, Array]]:
    return list(zip(numbers[::2], numbers[1::2], strict=True))


ADAPTATION_BACKENDS: Mapping[str, AdaptationBackend] = {"torch": TorchAdaptation()}
