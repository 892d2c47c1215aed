"""Feature matchers: what makes a student's feature comparable to a teacher's, channels last.

Rules: parameters are float32 (float64 for float64 features) and are computed in the feature's own dtype, which is a
layer's compute dtype under mixed precision. They are drawn by stateless operations from a seed of the pair, never
from the user's generators, and outside of any graph that is being traced. The first axis is the batch, and no
matcher mixes rows.
"""

from __future__ import annotations

from kdhooks.errors import MatcherError
from kdhooks.pairs.matching import MATCHERS
from kdhooks_tf.matchers.build import UserMatcher, build_matcher
from kdhooks_tf.matchers.modules import Matcher, Projection

__all__ = ["MATCHERS", "Matcher", "MatcherError", "Projection", "UserMatcher", "build_matcher"]
