"""The papers' alternating form: an adversary takes steps of its own on constant features, then the student follows.

Rules: an adversary's parameters are ours alone, so their steps change nothing that the loop's backward needs; the
student's own step sees an adversary that does not move. Its optimizer is ours and is saved with the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdhooks.config import DistillationConf
from kdhooks.config.model import AdaptationSettings
from kdhooks.torch.adaptation import Adapter, DomainBatch
from kdhooks.torch.adaptation.features import full_precision
from kdhooks.torch.domains.ranks import Together
from kdhooks.torch.optimizers import named_optimizer
from kdhooks.torch.rank_groups import average


class Adversary:
    """What an adapter owns, trained by an optimizer of its own.

    Args:
        adapter: built for its shapes.
        conf: says how many steps, and which optimizer.
        group: the ranks that train together.

    Raises:
        ConfigError: an unknown optimizer, or options that it has not.
    """

    def __init__(self, adapter: Adapter, conf: DistillationConf, group: Together) -> None:
        settings = (conf.settings.domain_adaptation or AdaptationSettings()).adversary
        self._adapter, self._steps, self._group = adapter, settings.steps, group
        self.parameters = [parameter for parameter in adapter.parameters() if parameter.requires_grad]
        self.optimizer = named_optimizer(conf, settings.optimizer, self.parameters)

    def train(self, source: DomainBatch, target: DomainBatch) -> None:
        """The adversary's own steps on these features."""
        source, target = _constant(source), _constant(target)
        for _ in range(self._steps):
            with torch.enable_grad():
                loss = self._own_loss(source, target)
            gradients = torch.autograd.grad(loss, self.parameters, allow_unused=True)
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient
            group = self._group()
            if group is not None:
                average(self.parameters, group)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)

    def _own_loss(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """What the adversary minimises: of ADDA its discriminator's loss, of MCD its second head's, or the whole."""
        adapter: Any = self._adapter
        own = getattr(adapter, "discriminator_loss", None) or getattr(adapter, "heads_loss", None) or adapter
        with full_precision(source.logits.device):
            loss: Tensor = own(source, target)
        return loss

    def against(self, source: DomainBatch, target: DomainBatch, coefficient: float) -> Tensor:
        """The student's loss against an adversary that does not move."""
        adapter: Any = self._adapter
        with self._held(), full_precision(source.logits.device):
            if not hasattr(adapter, "encoder_loss"):
                loss: Tensor = adapter(source, target, coefficient=coefficient)
                return loss
            value: Tensor = adapter.encoder_loss(target)
            if hasattr(adapter, "auxiliary_loss"):
                value = adapter.auxiliary_loss(source) + adapter.settings["discrepancy_weight"] * value
            return value

    @contextmanager
    def _held(self) -> Iterator[None]:
        for parameter in self.parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self.parameters:
                parameter.requires_grad_(True)

    def state_dict(self) -> dict[str, Any]:
        """What the optimizer keeps."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue a saved run."""
        self.optimizer.load_state_dict(dict(state))


def _constant(batch: DomainBatch) -> DomainBatch:
    return replace(
        batch,
        features=tuple(feature.detach() for feature in batch.features),
        logits=batch.logits.detach(),
        head_input=None if batch.head_input is None else batch.head_input.detach(),
        encoder_inputs=tuple(one.detach() if isinstance(one, Tensor) else one for one in batch.encoder_inputs),
    )
