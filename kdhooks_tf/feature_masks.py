"""Which positions of hidden features count, on tensors; the rules are `kdhooks.pairs.masks`'."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from kdhooks.pairs.masks import MaskRules

Tensor = Any

MASKS = MaskRules(channels_last=True, boolean=lambda mask: tf.cast(mask, tf.bool))
"""The TensorFlow backend's."""


def blanked(feature: Tensor, mask: Tensor) -> Tensor:
    """A feature with zeros at the positions that don't count."""
    counted = tf.cast(mask, tf.bool)
    if counted.shape.rank < feature.shape.rank:
        counted = counted[..., tf.newaxis]
    return tf.where(counted, feature, tf.zeros((), feature.dtype))
