"""What the rules of pairs of layers have to know of the PyTorch losses and matchers."""

from __future__ import annotations

from kdhooks.pairs.options import PairRules
from kdhooks.torch.losses import LOSSES, feature_loss
from kdhooks.torch.matchers import MATCHERS

RULES = PairRules(feature_loss, LOSSES, MATCHERS)
"""The PyTorch backend's."""
