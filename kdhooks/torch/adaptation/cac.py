"""CAC: adversarial adaptation of a segmentation network at its encoder, at its decoder and at its masks.

Zhu et al. 2020, "Multi-level colonoscopy malignant tissue detection with adversarial CAC-UNet" (arXiv:2006.15954):
a discriminator mirrors the encoder, another one the decoder, and a third one looks at masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdhooks.adaptation import shapes
from kdhooks.errors import ModelError, UsageError
from kdhooks.torch.adaptation.adapter import Adapter, DomainBatch, adapter
from kdhooks.torch.adaptation.discriminator import domain_accuracy, domain_loss
from kdhooks.torch.adaptation.pyramid import PyramidDiscriminator, pooled
from kdhooks.torch.adaptation.reversal import reverse_gradient

_BRANCHES = ("encoder", "decoder", "segmentation")


@adapter("cac")
class CACDomainAdversarialLoss(Adapter):
    """Three discriminators behind a gradient reversal, each with -mean log D(source) - mean log(1 - D(target)).

    - encoder and decoder: all maps of these layers in one `PyramidDiscriminator`, the finest first;
    - segmentation: the class probabilities, a map for each class, or with `mask_prior` the source's true masks
      against the target's probabilities, as in the paper.

    With `class_aware` the discriminators of encoder and decoder also see, beside every map, which class the student
    sees at each place (probabilities, pooled to the map's size, without gradient): what they compare is then the
    look of a class, and a domain that merely has more of one class can't be told by that. It is the conditioning of
    CDAN (Long et al. 2018, "Conditional Adversarial Domain Adaptation", section 3.2), place by place.

    Args:
        encoder_levels: how many of the layers, the first ones, are the encoder's; the others are the decoder's.
            "auto" is half of them, of an odd number the larger half.
        weights: of encoder, decoder and segmentation; a branch of weight 0 is not made.
        hidden_size: channels of a discriminator's first convolution; the i-th has i times as many.
        class_aware: see above.
        mask_prior: see above; it needs the source's labels.
        seed: of the discriminators' weights.

    Raises:
        UsageError: an option out of its range, or `mask_prior` without labels.
        ModelError: logits that are not [N, C, H, W] or [N, C, D, H, W], or maps that don't fit.

    >>> cac = CACDomainAdversarialLoss(hidden_size=4)
    >>> source = DomainBatch((torch.zeros(2, 3, 8, 8), torch.zeros(2, 3, 16, 16)), torch.zeros(2, 4, 16, 16))
    >>> target = DomainBatch((torch.ones(5, 3, 8, 8), torch.ones(5, 3, 16, 16)), torch.ones(5, 4, 16, 16))
    >>> cac(source, target).shape, sorted(cac.measures())
    (torch.Size([]), ['decoder_accuracy', 'domain_accuracy', 'encoder_accuracy', 'segmentation_accuracy'])
    """

    discriminators: nn.ModuleDict

    def __init__(
        self,
        *,
        encoder_levels: int | str = "auto",
        weights: Sequence[float] = (1.0, 1.0, 1.0),
        hidden_size: int = 32,
        class_aware: bool = True,
        mask_prior: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(
            encoder_levels=encoder_levels,
            weights=weights,
            hidden_size=hidden_size,
            class_aware=class_aware,
            mask_prior=mask_prior,
            seed=seed,
        )
        self.weights: tuple[float, ...] = self.settings["weights"]
        if len(self.weights) != len(_BRANCHES):
            raise UsageError(
                "the adapter 'cac': weights: expected three numbers, of encoder, decoder and segmentation, got "
                f"{len(self.weights)}"
            )
        self._order: dict[str, list[int]] = {}
        self._channels: dict[str, list[int]] = {}

    def _check(self, source: DomainBatch, target: DomainBatch) -> None:
        for domain, batch in (("source", source), ("target", target)):
            shapes.check_rows(self.name, domain, "logits", batch.logits.shape)
            if batch.logits.ndim not in (4, 5):
                raise ModelError(
                    "the adapter 'cac' is for segmentation: it needs logits [N, C, H, W] or [N, C, D, H, W], and the "
                    f"{domain}'s have shape {list(batch.logits.shape)}"
                )
            shapes.check_classes(self.name, batch.logits.shape, 1)
            for feature in batch.features:
                if feature.ndim != batch.logits.ndim:
                    raise ModelError(
                        f"the adapter 'cac' needs maps with the axes of the logits {list(batch.logits.shape)}, and a "
                        f"layer of the {domain} gives {list(feature.shape)}"
                    )
        if len(source.features) != len(target.features):
            raise ModelError("the adapter 'cac' needs as many maps of the target as of the source")
        if self.settings["mask_prior"] and self.weights[2]:
            labels = None if source.labels is None else source.labels.shape
            shapes.check_labels(self.name, labels, source.logits.shape, 1)

    def _split(self, features: Sequence[Any]) -> dict[str, list[int]]:
        """Which layers a branch looks at, finest first."""
        count = len(features)
        wanted = self.settings["encoder_levels"]
        first = (count + 1) // 2 if wanted == "auto" else wanted
        if first > count:
            raise ModelError(f"the adapter 'cac' has encoder_levels: {first}, and gets the maps of {count} layers")
        parts = {"encoder": range(first), "decoder": range(first, count)}
        return {
            branch: sorted(part, key=lambda at: -features[at][0, 0].numel()) for branch, part in parts.items() if part
        }

    def _make(self, source: DomainBatch, target: DomainBatch) -> None:
        classes, dims = source.logits.shape[1], source.logits.ndim - 2
        self._order = self._split(source.features)
        generator = self._generator()
        extra = classes if self.settings["class_aware"] else 0
        channels = {
            branch: [source.features[at].shape[1] + extra for at in order] for branch, order in self._order.items()
        }
        channels["segmentation"] = [classes]
        self.discriminators = nn.ModuleDict()
        for branch, weight in zip(_BRANCHES, self.weights, strict=True):
            if weight and branch in channels:
                self._channels[branch] = channels[branch]
                self.discriminators[branch] = PyramidDiscriminator(
                    channels[branch],
                    dims,
                    self.settings["hidden_size"],
                    generator=generator,
                    dtype=source.logits.dtype,
                    further=2 if branch == "segmentation" else 0,
                )
        if not self.discriminators:
            raise ModelError("the adapter 'cac' has nothing to do: give it layers, or the segmentation a weight")

    def _seen(self, branch: str, batch: DomainBatch, *, masks: bool) -> list[Tensor]:
        """What a discriminator sees of a domain, finest first."""
        if branch == "segmentation":
            if masks and batch.labels is not None:
                return [_one_hot(batch.labels, batch.logits)]
            return [batch.logits.softmax(1)]
        maps = [batch.features[at] for at in self._order[branch]]
        if not self.settings["class_aware"]:
            return maps
        classes = batch.logits.detach().softmax(1)
        return [torch.cat((one, _resized(classes, one.shape[2:])), 1) for one in maps]

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: float | Tensor) -> Tensor:
        total, accuracies = source.logits.new_zeros(()), []
        for branch, weight in zip(_BRANCHES, self.weights, strict=True):
            if branch not in self.discriminators:
                continue
            judged = []
            for batch, masks in ((source, self.settings["mask_prior"]), (target, False)):
                seen = [reverse_gradient(one, coefficient) for one in self._seen(branch, batch, masks=masks)]
                for one, made in zip(seen, self._channels[branch], strict=True):
                    shapes.check_made_for(f"{branch}'s discriminator", self.name, made, one.shape[1])
                judged.append(self.discriminators[branch](seen))
            total = total + weight * domain_loss(*judged)
            accuracies.append(domain_accuracy(*judged))
            self._measure(f"{branch}_accuracy", accuracies[-1])
        self._measure("domain_accuracy", torch.stack(accuracies).mean())
        return total


def _resized(classes: Tensor, size: Sequence[int]) -> Tensor:
    """Probabilities at a level's resolution; a level that is finer than the logits gets the nearest ones."""
    if any(wanted > have for wanted, have in zip(size, classes.shape[2:], strict=True)):
        return F.interpolate(classes, tuple(size), mode="nearest")
    return pooled(classes, size)


def _one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """Masks [N, C, ...] of class numbers [N, ...]; a place without a label has what the student says of it."""
    known = (labels >= 0).unsqueeze(1)
    hot = F.one_hot(labels.clamp(min=0), logits.shape[1]).movedim(-1, 1).to(logits.dtype)
    return torch.where(known, hot, logits.softmax(1))
