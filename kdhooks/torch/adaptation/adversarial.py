"""Adapters with a domain discriminator: DANN, CDAN and ADDA."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from kdhooks.adaptation import shapes
from kdhooks.errors import ModelError
from kdhooks.torch.adaptation.adapter import Adapter, DomainBatch, adapter, precisely
from kdhooks.torch.adaptation.discriminator import Discriminator, domain_accuracy, domain_loss
from kdhooks.torch.adaptation.features import full_precision, rows_of, wide
from kdhooks.torch.adaptation.reversal import reverse_gradient
from kdhooks.torch.adaptation.twins import missing_module, twin_of

Pool = Literal["flatten", "mean"]


class _Discriminating(Adapter):
    """Owns a discriminator of rows."""

    discriminator: Discriminator

    def _make_discriminator(self, width: int, like: Tensor, generator: torch.Generator) -> None:
        size, layers = self.settings["hidden_size"], self.settings["hidden_layers"]
        self.discriminator = Discriminator(width, size, layers, generator, like.dtype)

    def _discriminated(self, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [N] and [M] of both domains' rows, from one pass."""
        shapes.check_made_for("discriminator", self.name, self.discriminator.width, source.shape[1])
        shapes.check_made_for("discriminator", self.name, self.discriminator.width, target.shape[1])
        both = self.discriminator(torch.cat([source, target.to(source.dtype)]))
        found = both[: len(source)], both[len(source) :]
        self._measure("domain_accuracy", domain_accuracy(*found))
        return found


@adapter("dann")
class DANN(_Discriminating):
    """Domain-adversarial training: a discriminator tells domains apart by features that are trained to prevent it.

    L = -1/n Σ log D(f_s) - 1/m Σ log(1 - D(f_t)), minimised by D; the gradient of the features is reversed and
    multiplied by the coefficient. Ganin et al. 2016, "Domain-Adversarial Training of Neural Networks", equation 9.
    Common implementations take the half of it, the mean over both domains.

    Args:
        hidden_size: of the discriminator's hidden layers.
        hidden_layers: how many.
        pool: ``mean`` averages a feature over space or tokens first, ``flatten`` keeps everything.
        seed: of the private generator.

    Raises:
        UsageError: an option out of its range.

    Example:
        >>> import torch
        >>> from kdhooks.torch.adaptation import DANN, DomainBatch
        >>> source, target = (DomainBatch((torch.randn(n, 8),), torch.randn(n, 3)) for n in (4, 6))
        >>> DANN(hidden_size=16)(source, target, coefficient=0.5).shape
        torch.Size([])
    """

    def __init__(
        self, *, hidden_size: int = 1024, hidden_layers: int = 2, pool: Pool = "flatten", seed: int = 0
    ) -> None:
        super().__init__(hidden_size=hidden_size, hidden_layers=hidden_layers, pool=pool, seed=seed)

    def _make(self, source: DomainBatch, target: DomainBatch) -> None:
        rows = self._rows(source)
        self._make_discriminator(rows.shape[1], rows, self._generator())

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        rows = (reverse_gradient(self._rows(batch), coefficient) for batch in (source, target))
        return domain_loss(*self._discriminated(*rows))


@adapter("cdan")
class CDAN(_Discriminating):
    """Conditional adversarial adaptation: the discriminator sees features together with what is predicted of them.

    L = -1/n Σ w(g_s) log D(T(f_s, g_s)) - 1/m Σ w(g_t) log(1 - D(T(f_t, g_t))) with g the softmax of the logits, T the
    flattened outer product f ⊗ g, or 1/√d (R_f f) ⊙ (R_g g) with fixed random maps, and w = 1 + e^(-H(g)) where
    examples that are easy to transfer count more (CDAN+E). Features get the reversed gradient. Long et al. 2018,
    "Conditional Adversarial Domain Adaptation", equations 2, 6 to 8 and 10.

    Args:
        hidden_size: of the discriminator's hidden layers.
        hidden_layers: how many.
        entropy: whether examples are weighted by the certainty of their prediction.
        entropy_weights: ``sum`` is H(g) = -Σ g log g over classes, as in the paper; ``mean`` divides it by their
            number.
        randomized: whether T is the randomised map; ``auto`` where f ⊗ g has more than 4096 numbers, equation 8.
        random_size: d, the width of the randomised map.
        detach_predictions: whether g and w are constants, as the authors' code has it; otherwise the reversed
            gradient also goes through them.
        pool: ``mean`` averages a feature over space or tokens first, ``flatten`` keeps everything.
        seed: of the private generator.

    Raises:
        UsageError: an option out of its range.
        ModelError: logits that are not [N, C].
    """

    feature_map: Tensor
    class_map: Tensor

    def __init__(
        self,
        *,
        hidden_size: int = 1024,
        hidden_layers: int = 2,
        entropy: bool = True,
        entropy_weights: Literal["sum", "mean"] = "sum",
        randomized: bool | Literal["auto"] = "auto",
        random_size: int = 1024,
        detach_predictions: bool = True,
        pool: Pool = "flatten",
        seed: int = 0,
    ) -> None:
        super().__init__(
            **{"hidden_size": hidden_size, "hidden_layers": hidden_layers, "entropy": entropy},
            **{"entropy_weights": entropy_weights, "randomized": randomized, "random_size": random_size},
            **{"detach_predictions": detach_predictions, "pool": pool, "seed": seed},
        )
        self.maps = False

    def _check(self, source: DomainBatch, target: DomainBatch) -> None:
        super()._check(source, target)
        shapes.check_plain_logits(self.name, source.logits.shape)

    def _make(self, source: DomainBatch, target: DomainBatch) -> None:
        rows, classes = self._rows(source), source.logits.shape[1]
        generator, size = self._generator(), self.settings["random_size"]
        wanted, width = self.settings["randomized"], rows.shape[1] * classes
        self.maps = wanted is True or (wanted == "auto" and width > 4096)
        if self.maps:
            for name, inputs in (("feature_map", rows.shape[1]), ("class_map", classes)):
                drawn = torch.empty(inputs, size, dtype=torch.float64, device="cpu").normal_(generator=generator)
                self.register_buffer(name, drawn.to(rows.dtype))
        self._make_discriminator(size if self.maps else width, rows, generator)

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        sides = [self._conditioned(batch, coefficient) for batch in (source, target)]
        logits = self._discriminated(sides[0][0], sides[1][0])
        return domain_loss(*logits, weights=(sides[0][1], sides[1][1]) if self.settings["entropy"] else None)

    def _conditioned(self, batch: DomainBatch, coefficient: float | Tensor) -> tuple[Tensor, Tensor]:
        """T(f, g) and the weight of each row."""
        detached = self.settings["detach_predictions"]
        features = reverse_gradient(self._rows(batch), coefficient)
        logits = batch.logits.detach() if detached else reverse_gradient(batch.logits, coefficient)
        predictions = logits.softmax(1)
        entropies = -(predictions * logits.log_softmax(1).clamp_min(-1000.0)).sum(1)
        if self.settings["entropy_weights"] == "mean":
            entropies = entropies / logits.shape[1]
        return self._joined(features, predictions), 1 + (-entropies).exp()

    def _joined(self, features: Tensor, predictions: Tensor) -> Tensor:
        if not self.maps:
            return (predictions.unsqueeze(2) * features.unsqueeze(1)).flatten(1)
        for what, made, rows in (
            ("random map of features", self.feature_map, features),
            ("random map of classes", self.class_map, predictions),
        ):
            shapes.check_made_for(what, self.name, made.shape[0], rows.shape[1])
        return (features @ self.feature_map) * (predictions @ self.class_map) / math.sqrt(self.feature_map.shape[1])


@adapter("adda")
class ADDA(_Discriminating):
    """Adversarial discriminative adaptation: the target's features become like those of a frozen source encoder.

    The encoder is copied and frozen at the first step, so train the student on the source before. With f_s of the
    frozen copy and f_t of the student: D minimises L_D = -1/n Σ log D(f_s) - 1/m Σ log(1 - D(f_t)), and the student's
    encoder L_M = -1/m Σ log D(f_t). Tzeng et al. 2017, "Adversarial Discriminative Domain Adaptation", equation 9.
    The paper alternates the two: `discriminator_loss` and `encoder_loss`. Called as an adapter it takes one step: L_D
    with the gradient of f_t reversed. The paper trains on the target alone, with the student's own loss weighing 0.

    Args:
        hidden_size: of the discriminator's hidden layers.
        hidden_layers: how many.
        pool: ``mean`` averages a feature over space or tokens first, ``flatten`` keeps everything.
        seed: of the private generator.

    Raises:
        UsageError: an option out of its range.
        ModelError: no encoder was attached, or its inputs are missing.
    """

    source_encoder: nn.Module

    def __init__(
        self, *, hidden_size: int = 500, hidden_layers: int = 2, pool: Pool = "flatten", seed: int = 0
    ) -> None:
        super().__init__(hidden_size=hidden_size, hidden_layers=hidden_layers, pool=pool, seed=seed)

    def _check(self, source: DomainBatch, target: DomainBatch) -> None:
        super()._check(source, target)
        if not source.encoder_inputs:
            raise ModelError(
                "the adapter 'adda' needs what the student's encoder was called with in the source's batch"
            )

    def _make(self, source: DomainBatch, target: DomainBatch) -> None:
        encoder, _ = self._students
        if encoder is None:
            raise missing_module(self.name, "encoder")
        self.source_encoder = twin_of(encoder).eval().requires_grad_(False)
        rows = self._rows(target)
        self._make_discriminator(rows.shape[1], rows, self._generator())

    def train(self, mode: bool = True) -> ADDA:
        """The mode of the adapter; its frozen encoder stays in eval mode."""
        super().train(mode)
        if self.built:
            self.source_encoder.eval()
        return self

    def frozen(self, source: DomainBatch) -> Tensor:
        """The frozen encoder's rows [N, D] of the source's batch."""
        kinds = [one.dtype for one in self.source_encoder.parameters() if one.is_floating_point()]
        given = [
            one.to(kinds[0]) if kinds and isinstance(one, Tensor) and one.is_floating_point() else one
            for one in source.encoder_inputs
        ]
        with torch.no_grad(), full_precision(source.logits.device):
            made = self.source_encoder(*given)
        if not isinstance(made, Tensor):
            raise ModelError(f"the adapter 'adda' needs an encoder that returns a tensor, not {type(made).__name__}")
        return rows_of(wide(made), self.settings["pool"])

    @precisely
    def discriminator_loss(self, source: DomainBatch, target: DomainBatch) -> Tensor:
        """L_D with f_t constant: the discriminator's half of the alternating form."""
        rows = self._rows(target).detach()
        return domain_loss(*self._discriminated(self.frozen(source), rows))

    @precisely
    def encoder_loss(self, target: DomainBatch) -> Tensor:
        """L_M with the discriminator constant: the encoder's half of the alternating form."""
        constant = {name: value.detach() for name, value in self.discriminator.named_parameters()}
        logits = torch.func.functional_call(self.discriminator, constant, (self._rows(target),))
        return -nn.functional.logsigmoid(logits).mean()

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        rows = reverse_gradient(self._rows(target), coefficient)
        return domain_loss(*self._discriminated(self.frozen(source), rows))
