"""Adversarial terms: a discriminator of domains learns, and the features unlearn what it uses."""

from __future__ import annotations

import math
from typing import Any

import tensorflow as tf

from kdhooks.adaptation.shapes import check_made_for, check_plain_logits
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

    def _told(self, source: Tensor, target: Tensor, weights: tuple[Any, Any] | None = None) -> Tensor:
        """-mean w log D(source) - mean w log(1 - D(target)), each mean within its domain; keeps the accuracy."""
        for one in (source, target):
            check_made_for("discriminator", self.name, self.discriminator.width, shape_of(one)[-1])
        both = self.discriminator(tf.concat([source, target], 0))
        said = both[: tf.shape(source)[0]], both[tf.shape(source)[0] :]
        right = [tf.reduce_mean(tf.cast(one, both.dtype)) for one in (said[0] > 0, said[1] < 0)]
        self._measures = {"domain_accuracy": tf.stop_gradient((right[0] + right[1]) / 2)}
        costs = [tf.nn.softplus(-said[0]), tf.nn.softplus(said[1])]
        if weights is not None:
            costs = [cost * weight for cost, weight in zip(costs, weights, strict=True)]
        return tf.reduce_mean(costs[0]) + tf.reduce_mean(costs[1])


@named("dann")
class DANN(_Adversarial):
    """Domain-adversarial training: a discriminator tells domains apart by features that are trained to prevent it.

    L = -1/n Σ log D(f_s) - 1/m Σ log(1 - D(f_t)), minimised by D; the gradient of the features is reversed and
    multiplied by the coefficient. Ganin et al. 2016, "Domain-Adversarial Training of Neural Networks", equations 9
    and 10. Common implementations take the half of it, the mean over both domains.

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
        return self._told(*(reverse_gradient(self._rows(one.features[0]), coefficient) for one in (source, target)))


@named("cdan")
class CDAN(_Adversarial):
    """Conditional adversarial adaptation: the discriminator sees features together with what is predicted of them.

    L = -1/n Σ w(g_s) log D(T(f_s, g_s)) - 1/m Σ w(g_t) log(1 - D(T(f_t, g_t))) with g the softmax of the logits, T the
    flattened outer product f ⊗ g, or 1/√d (R_f f) ⊙ (R_g g) with fixed random maps, and w = 1 + e^(-H(g)) where
    examples that are easy to transfer count more (CDAN+E). Features get the reversed gradient; predictions too, unless
    they are detached. Long et al. 2018, "Conditional Adversarial Domain Adaptation", equations 2, 6 to 8 and 10.
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

    def _loss(self, source: DomainBatch, target: DomainBatch, coefficient: Coefficient) -> Tensor:
        (ours, own), (theirs, other) = (self._conditioned(one, coefficient) for one in (source, target))
        return self._told(ours, theirs, (own, other) if self.options["entropy"] else None)

    def _conditioned(self, batch: DomainBatch, coefficient: Coefficient) -> tuple[Tensor, Tensor]:
        """T(f, g) and the weight of each row."""
        row = reverse_gradient(self._rows(batch.features[0]), coefficient)
        check_made_for("discriminator", self.name, self.width, shape_of(row)[-1])
        detached = self.options["detach_predictions"]
        logits = tf.stop_gradient(batch.logits) if detached else reverse_gradient(batch.logits, coefficient)
        logs = tf.nn.log_softmax(logits)
        found = entropies(logs)
        if self.options["entropy_weights"] == "mean":
            found = found / tf.cast(tf.shape(logits)[1], found.dtype)
        return self._joined(row, tf.nn.softmax(logits)), 1 + tf.exp(-found)

    def _joined(self, row: Tensor, predictions: Tensor) -> Tensor:
        if not self.maps:
            return tf.reshape(predictions[:, :, tf.newaxis] * row[:, tf.newaxis], [-1, self.discriminator.width])
        feature, prediction = (
            tf.matmul(one, tf.cast(by, one.dtype)) for one, by in zip((row, predictions), self.maps, strict=True)
        )
        return feature * prediction / math.sqrt(self.options["random_size"])
