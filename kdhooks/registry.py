"""What users add by name: losses, metrics and feature matchers; datasets have their own room.

A backend looks here for a name that its own table doesn't have. Signatures are checked when something
is registered, not in the middle of a run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from kdhooks.config.known import add_known_loss, add_known_matcher
from kdhooks.datasets import register_dataset
from kdhooks.errors import UsageError
from kdhooks.names import Table

__all__ = [
    "REGISTERED_LOSSES",
    "REGISTERED_MATCHERS",
    "REGISTERED_METRICS",
    "register_dataset",
    "register_loss",
    "register_matcher",
    "register_metric",
]

REGISTERED_LOSSES: Table[Callable[..., Any]] = Table("loss")
REGISTERED_METRICS: Table[Callable[..., Any]] = Table("metric")
REGISTERED_MATCHERS: Table[Callable[..., Any]] = Table("feature matcher")

_LOSS_KEYWORDS = ("temperature", "target", "mask", "axis")


def register_loss(name: str, function: Callable[..., Any], *, replace: bool = False) -> None:
    """Let ``loss_types`` name a loss of one's own.

    Args:
        name: what the configuration will call it.
        function: called as ``function(student_logits, teacher_logits, temperature=, target=, mask=,
            axis=)`` with those keywords that it takes; returns a scalar tensor. In TensorFlow it also gets
            ``sample_weight=`` where it takes it and the loop gives one. Further keyword-only arguments are its
            options: ``loss_types: [CE, {mine: {power: 3}}]``.
        replace: take the place of a loss of this name, one of ours too.

    Raises:
        UsageError: the name is taken, or the function doesn't take two logits.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
        inspect.signature(function).bind(None, None, **dict.fromkeys(_taken(parameters)))
    except (TypeError, ValueError):
        raise UsageError(
            f"the loss {name!r} is called as f(student_logits, teacher_logits, *, temperature, target, mask, axis) "
            "with those keywords that it takes; this function can't be"
        ) from None
    taken = _taken(parameters)

    def loss(student_logits: Any, teacher_logits: Any, **keywords: Any) -> Any:
        given = {key: value for key, value in keywords.items() if key in taken or key not in _LOSS_KEYWORDS}
        return function(student_logits, teacher_logits, **given)

    loss.__doc__ = function.__doc__
    loss.__wrapped__ = function  # type: ignore[attr-defined]  # so that its signature shows its options
    add_known_loss(name, replace=replace)  # first: it knows our own names too
    REGISTERED_LOSSES.add(name, loss, replace=replace)


def _taken(parameters: Any) -> tuple[str, ...]:
    """The keywords of a loss that a function takes."""
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return _LOSS_KEYWORDS
    named = {p.name for p in list(parameters)[2:] if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    return tuple(key for key in _LOSS_KEYWORDS if key in named)


def register_metric(name: str, factory: Callable[..., Any], *, replace: bool = False) -> None:
    """Let ``evaluation`` name a metric of one's own.

    Args:
        name: what the configuration will call it.
        factory: called with the metric's options; returns an object with ``update(output, target)``
            and ``compute()``, such as a torchmetrics ``Metric``.
        replace: take the place of a registered metric of this name.

    Raises:
        UsageError: the name is taken, or the factory can't be called.
    """
    if not callable(factory):
        raise UsageError(f"the metric {name!r} needs a factory: a class, or a function that returns a metric")
    REGISTERED_METRICS.add(name, factory, replace=replace)


def register_matcher(name: str, factory: Callable[..., Any], *, replace: bool = False) -> None:
    """Let ``feature_matchers`` name a matcher of one's own.

    Args:
        name: what the configuration will call it.
        factory: called as ``factory(student_shape, teacher_shape)`` with two lists of sizes, batch first;
            returns a module that maps a student's feature to the teacher's shape.
        replace: take the place of a registered matcher of this name.

    Raises:
        UsageError: the name is taken, or the factory can't be called with two shapes.
    """
    try:
        inspect.signature(factory).bind([1, 1], [1, 1])
    except (TypeError, ValueError):
        raise UsageError(
            f"the feature matcher {name!r} is made by f(student_shape, teacher_shape); this factory can't be called so"
        ) from None
    add_known_matcher(name, replace=replace)
    REGISTERED_MATCHERS.add(name, factory, replace=replace)
