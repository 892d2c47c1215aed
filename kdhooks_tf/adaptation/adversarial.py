"""Adversarial terms: a discriminator of domains learns, and the features unlearn what it uses."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from kdhooks.adaptation.shapes import check_classes, check_plain_logits
from kdhooks.errors import ModelError
from kdhooks_tf.adaptation.adapter import Adapter, Coefficient, DomainBatch, named, row_width
from kdhooks_tf.adaptation.network import Discriminator, random_map
from kdhooks_tf.adaptation.predictions import entropies
from kdhooks_tf.adaptation.reversal import reverse_gradient
from kdhooks_tf.losses.positions import shape_of

Tensor = Any

LARGEST_PRODUCT = 4096
"""Above it, ``randomized: auto`` takes the random maps, as in the paper."""


class _Adversarial(Adapter):
    """What adversarial adapters share: a discriminator, its loss and its accuracy."""

    discriminator: Discriminator

    def _make_discriminator(self, width: int, dtype: str) -> None:
        given = {key: self.options[key] for key in ("hidden_size", "hidden_layers", "seed")}
        self.discriminator = Discriminator(width, **given, dtype=dtype)

    def _width(self, batch: DomainBatch) -> int:
        width = row_width(self.name, batch.features[0], self.options["pool"])
        if width is None:
            raise ModelError(
                f"the adapter {self.name!r} needs features whose size is known when a graph is traced, and they have "
                f"shape {shape_of(batch.features[0])}; pool: mean takes the mean over space or tokens"
            )
        return width

    def _told(self, source: Tensor, target: Tensor, weights: tuple[Any, Any] = (None, None)) -> Tensor:
        """The binary cross-entropy of the domains, the mean of both domains' means; keeps the accuracy."""
        said = self.discriminator(source), self.discriminator(target)
        right = tf.reduce_mean(_share(said[0] > 0, said[0])) + tf.reduce_mean(_share(said[1] < 0, said[1]))
        self._measures = {"domain_accuracy": tf.stop_gradient(right / 2)}
        losses = tf.nn.softplus(-said[0]), tf.nn.softplus(said[1])
        return tf.add_n([_mean(*pair) for pair in zip(losses, weights, strict=True)]) / 2


def _share(right: Tensor, like: Tensor) -> Tensor:
    return tf.cast(right, like.dtype)


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return tf.reduce_mean(values)
    return tf.reduce_sum(weights * values) / tf.reduce_sum(weights)


@named("dann")
class DANN(_Adversarial):
    """Domain-adversarial training on the features of one layer.

    The mean over domains of the discriminator's binary cross-entropy, through a gradient reversal. Ganin et al. 2016,
    "Domain-Adversarial Training of Neural Networks", equations 4 to 9.

    Example:
        >>> import tensorflow as tf
        >>> adapter = DANN(hidden_size=8)
        >>> source, target = (DomainBatch((tf.ones([n, 4]),), tf.zeros([n, 3])) for n in (6, 5))
        >>> adapter(source, target).shape, sorted(adapter.measures())
        (TensorShape([]), ['domain_accuracy'])
    """

    def _sizes(self, source: DomainBatch) -> dict[str, Any]:
        return {"width": self._width(source)}

    def _make(self, sizes: dict[str, Any]) -> None:
        self._make_discriminator(sizes["width"], sizes["dtype"])

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        both = [self._rows(one.features[0]) for one in (source, target)]
        self._check_width("discriminator", self.discriminator.width, both[0])
        return self._told(*(reverse_gradient(one, coefficient) for one in both))


@named("cdan")
class CDAN(_Adversarial):
    """Conditional adversarial training: the discriminator sees the features of one layer times the predictions.

    It sees f ⊗ g, or with random maps (R_f f) ⊙ (R_g g) / √d, for g the softmax of the logits. With `entropy` each
    sample weighs 1 + e^-H(g) over the sum of its domain's. Long et al. 2018, "Conditional Adversarial Domain
    Adaptation", equations 3 to 8.
    """

    def _sizes(self, source: DomainBatch) -> dict[str, Any]:
        width, classes = self._width(source), shape_of(source.logits)[-1]
        if classes is None:
            raise ModelError(f"the adapter {self.name!r} needs logits whose classes are known when a graph is traced")
        randomized = self.options["randomized"]
        randomized = width * classes > LARGEST_PRODUCT if randomized == "auto" else randomized
        return {"width": width, "classes": classes, "randomized": randomized}

    def _make(self, sizes: dict[str, Any]) -> None:
        width, classes, dtype = sizes["width"], sizes["classes"], sizes["dtype"]
        size = self.options["random_size"]
        self.maps: list[Any] = []
        if sizes["randomized"]:
            seed = self.options["seed"]
            self.maps = [random_map(one, size, seed, place, dtype) for place, one in enumerate((width, classes))]
        self.width = width
        self._make_discriminator(size if self.maps else width * classes, dtype)

    def _check(self, source: DomainBatch, target: DomainBatch) -> None:
        super()._check(source, target)
        check_plain_logits(self.name, shape_of(source.logits))
        check_classes(self.name, shape_of(source.logits), -1)

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        both = [self._rows(one.features[0]) for one in (source, target)]
        self._check_width("discriminator", self.width, both[0])
        conditioned = [self._joined(row, one.logits) for row, one in zip(both, (source, target), strict=True)]
        weights = tuple(self._weights(one.logits) for one in (source, target))
        return self._told(*(reverse_gradient(one, coefficient) for one in conditioned), weights)  # type: ignore[arg-type]

    def _joined(self, row: Tensor, logits: Tensor) -> Tensor:
        predictions = tf.nn.softmax(logits)
        if self.options["detach_predictions"]:
            predictions = tf.stop_gradient(predictions)
        if self.maps:
            feature, prediction = (
                tf.matmul(one, tf.cast(by, one.dtype)) for one, by in zip((row, predictions), self.maps, strict=True)
            )
            return feature * prediction / math.sqrt(self.options["random_size"])
        return tf.reshape(predictions[:, :, tf.newaxis] * row[:, tf.newaxis], [-1, self.discriminator.width])

    def _weights(self, logits: Tensor) -> Tensor | None:
        if not self.options["entropy"]:
            return None
        found = entropies(logits)
        if self.options["entropy_weights"] == "mean":
            found = found / tf.cast(tf.shape(logits)[-1], found.dtype)
        return tf.stop_gradient(1 + tf.exp(-found))
