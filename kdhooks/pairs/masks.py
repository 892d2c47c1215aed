"""Which positions of hidden features count: the option ``feature_mask`` of a criterion, or the step's own mask.

Rules: a step's `mask` belongs to the logits, so it is used where it happens to fit a feature and dropped otherwise. A
`feature_mask` was asked for, so a feature of tokens that it doesn't fit is an error. Features without tokens, [N, D],
have nothing to leave out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdhooks.errors import ModelError, UsageError
from kdhooks.names import did_you_mean, fold
from kdhooks.pairs.selection import Values

Tensor = Any
Shape = Sequence[int | None]
FeatureMask = str | Callable[[Any], Any]
"""A key of the student's input, or a function of it."""

_OF_TOKENS = frozenset(map(fold, ("attention_kl", "value_relation")))
"""Losses whose mask is [N, T] for features [N, heads, T, ...]."""


def check_feature_mask(given: Any) -> FeatureMask | None:
    """The option, if it is one; UsageError otherwise."""
    if given is None or isinstance(given, str):
        return given
    if callable(given):
        function: Callable[[Any], Any] = given
        return function
    raise UsageError(f"feature_mask must be a key of the input or a function of it, not {given!r}")


def mask_of(given: FeatureMask, value: Any, values: Values) -> Tensor:
    """The mask that an input holds.

    Args:
        given: the option.
        value: the student's input.
        values: of the backend.

    Raises:
        UsageError: there is none, or it is no tensor.
    """
    if callable(given):
        found = given(value)
        mask = values.as_tensor(found)
        if mask is None:
            raise UsageError(f"feature_mask: the function returned {values.describe(found)}, not a tensor")
        return mask
    found = None
    if isinstance(value, Mapping):
        found = value.get(given)
    elif given.isdecimal() and isinstance(value, (tuple, list)) and int(given) < len(value):
        found = value[int(given)]
    elif not isinstance(value, (tuple, list)) and values.as_tensor(value) is None:
        found = getattr(value, given, None)
    mask = values.as_tensor(found)
    if mask is None:
        hint = did_you_mean(given, map(str, value), what="Keys there") if isinstance(value, Mapping) else ""
        message = f"feature_mask: there is no {given!r} in the input, {values.describe(value)}. {hint}"
        raise UsageError(message.rstrip(". "))
    return mask


@dataclass(frozen=True)
class MaskRules:
    """How a backend's features and masks go together.

    Attributes:
        channels_last: whether maps are [N, *space, C]; [N, C, *space] otherwise.
        boolean: a mask as booleans.
    """

    channels_last: bool
    boolean: Callable[[Tensor], Tensor]

    def fitted(self, mask: Tensor, loss: str, shape: Shape, *, asked: bool) -> Tensor | None:
        """The mask in the form that a loss takes for features of a shape; None where it has nothing to say there.

        Args:
            mask: [N, T], or the positions of the features.
            loss: by name.
            shape: of the student's feature behind its matcher; None where a size is not known before the step.
            asked: whether `feature_mask` named it.

        Raises:
            ModelError: it was asked for and doesn't fit.
        """
        positions, given = self._positions(loss, shape), list(mask.shape)
        if _fits(given, positions):
            return mask
        if not asked or (len(shape) == 2 and len(given) == 2):
            return None
        if len(given) == 2 and len(shape) == 4:
            queries, keys = shape[1:3] if self.channels_last else shape[2:]
            if queries == keys and _fits(given, [shape[0], queries]):
                counted = self.boolean(mask)
                return counted[:, :, None] & counted[:, None, :]  # of attention: both the query and the key
        raise ModelError(
            f"the feature_mask has shape {given}; for features of shape {list(shape)} the loss {loss!r} needs "
            f"{positions}"
        )

    def has_heads(self, mask: Tensor, loss: str, shape: Shape) -> bool:
        """Whether a feature is attention [N, heads, T, T], of whose tokens the mask [N, T] speaks."""
        if len(shape) != 4 or len(mask.shape) != 2 or fold(loss) in _OF_TOKENS:
            return False
        return shape[2] == shape[3] and _fits(list(mask.shape), [shape[0], shape[2]])

    def _positions(self, loss: str, shape: Shape) -> list[int | None]:
        if fold(loss) in _OF_TOKENS and len(shape) == 4:
            return [shape[0], shape[2]]
        if len(shape) >= 4 and not self.channels_last:
            return [shape[0], *shape[2:]]
        return list(shape[:-1])


def _fits(first: Shape, second: Shape) -> bool:
    """Whether two shapes are, or may turn out to be, the same."""
    pairs = zip(first, second, strict=False)
    return len(first) == len(second) and all(a is None or b is None or a == b for a, b in pairs)
