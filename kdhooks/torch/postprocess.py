"""Transforms of a model's output and target, between the model and the loss or the metrics.

Rules: each is a function of (output, target) that returns both; nothing is random and nothing is changed in
place. Targets of -100 have no label and stay -100.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from kdhooks.config.model import Named
from kdhooks.datasets import UNLABELLED
from kdhooks.datasets.options import check_factory
from kdhooks.errors import ModelError, UsageError
from kdhooks.loop.postprocess import Postprocess, in_turn
from kdhooks.names import Table, did_you_mean
from kdhooks.torch.outputs import describe, logits_of

POSTPROCESS: Table[Callable[..., Any]] = Table("postprocess transform")
"""Every postprocess transform that a configuration can name."""


def register_postprocess(name: str, factory: Callable[..., Any], *, replace: bool = False) -> None:
    """Give configurations a postprocess transform of your own.

    Args:
        name: case-insensitive, as in ``postprocess: {transform: {my_shift: 1}}``.
        factory: takes the options by keyword and returns a function of (output, target) that returns both.
        replace: allow a name that exists already.

    Raises:
        UsageError: the name is taken, or the factory cannot take options by keyword.
    """
    check_factory("postprocess transform", name, factory)
    POSTPROCESS.add(name, factory, replace=replace)


def build_postprocess(steps: Sequence[Named | Postprocess]) -> Postprocess:
    """The postprocess transforms of a configuration, one after the other, as one function.

    Raises:
        UsageError: an unknown name or option.
    """
    return in_turn(steps, POSTPROCESS)


@POSTPROCESS.register("LabelShift")
def label_shift(label_shift: int) -> Postprocess:
    """Take a number from every class number: 1 where a dataset counts from 1 and the model from 0."""
    if isinstance(label_shift, bool) or not isinstance(label_shift, int):
        raise UsageError(f"LabelShift needs a whole number, not {label_shift!r}")

    def shift(output: Any, target: Any) -> tuple[Any, Any]:
        if not isinstance(target, Tensor):
            raise ModelError(f"LabelShift needs a target that is a tensor, not {describe(target)}")
        return output, (target - label_shift).where(target != UNLABELLED, target)

    return shift


@POSTPROCESS.register("Softmax")
def softmax(dim: int | None = None) -> Postprocess:
    """Logits become probabilities along the class axis: 1 for [N, C] and [N, C, H, W], the last for [N, T, C]."""
    if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int)):
        raise UsageError(f"Softmax: dim must be a whole number, not {dim!r}")

    def probabilities(output: Any, target: Any) -> tuple[Any, Any]:
        logits = logits_of(output)
        axis = dim if dim is not None else (1 if logits.ndim == 4 else -1)
        return logits.softmax(axis), target

    return probabilities


@POSTPROCESS.register("Squeeze")
def squeeze(dim: int | None = None) -> Postprocess:
    """Take an axis of length 1 out of output and target, where they have it; without `dim`, all but the batch's."""
    if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int)):
        raise UsageError(f"Squeeze: dim must be a whole number, not {dim!r}")

    def without(value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if dim is None:
            return value.reshape(value.shape[:1] + tuple(size for size in value.shape[1:] if size != 1))
        return value.squeeze(dim) if -value.ndim <= dim < value.ndim else value

    return lambda output, target: (without(output), without(target))


@POSTPROCESS.register("Select")
def select(key: str | int) -> Postprocess:
    """One part of an output: a key of a mapping, an attribute, or a place in a tuple."""
    if isinstance(key, bool) or not isinstance(key, (str, int)):
        raise UsageError(f"Select needs a key or a place, not {key!r}")

    def part(output: Any, target: Any) -> tuple[Any, Any]:
        return _part(output, key), target

    return part


def _part(output: Any, key: str | int) -> Any:
    if isinstance(output, Mapping):
        if key in output:
            return output[key]
        hint = did_you_mean(str(key), [str(name) for name in output], what="Its keys")
        raise ModelError(f"Select: the output is {describe(output)}, without {key!r}. {hint}")
    if isinstance(output, (tuple, list)) and isinstance(key, int) and -len(output) <= key < len(output):
        return output[key]
    if isinstance(key, str) and hasattr(output, key):
        return getattr(output, key)
    raise ModelError(f"Select: there is no {key!r} in {describe(output)}")
