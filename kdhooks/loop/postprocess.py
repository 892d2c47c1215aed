"""Postprocess transforms of a configuration, made from a backend's table of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kdhooks.config.model import Named
from kdhooks.datasets.options import call_with_options
from kdhooks.errors import UsageError
from kdhooks.names import Table

Postprocess = Callable[[Any, Any], tuple[Any, Any]]
"""(output, target) in, (output, target) out."""


def in_turn(steps: Sequence[Named | Postprocess], table: Table[Callable[..., Any]]) -> Postprocess:
    """The transforms one after the other, as one function.

    Raises:
        UsageError: an unknown name or option.
    """
    functions = [_build(step, table) for step in steps]

    def postprocess(output: Any, target: Any) -> tuple[Any, Any]:
        for function in functions:
            output, target = function(output, target)
        return output, target

    return postprocess


def _build(step: Named | Postprocess, table: Table[Callable[..., Any]]) -> Postprocess:
    if not isinstance(step, Named):
        return step
    name = table.name(step.name) or step.name
    made = call_with_options("postprocess transform", name, table[step.name], step.options)
    if not callable(made):
        raise UsageError(f"the postprocess transform {name!r} must be a function of (output, target), not {made!r}")
    function: Postprocess = made
    return function
