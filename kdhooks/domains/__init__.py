"""Domain adaptation in the user's loop, as far as no framework matters: its criterion, its words, its validators."""

from __future__ import annotations

from kdhooks.domains.criterion import AdaptationCriterion
from kdhooks.domains.sections import adapts, check_target, distils
from kdhooks.domains.validators import VALIDATORS, Validator, validate

__all__ = ["VALIDATORS", "AdaptationCriterion", "Validator", "adapts", "check_target", "distils", "validate"]
