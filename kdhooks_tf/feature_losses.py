"""What the rules of pairs of layers have to know of the TensorFlow losses and of the matchers."""

from __future__ import annotations

from kdhooks.pairs.matching import MATCHERS
from kdhooks.pairs.options import PairRules
from kdhooks_tf.losses import LOSSES, feature_loss

RULES = PairRules(feature_loss, LOSSES, MATCHERS)
"""The TensorFlow backend's."""
