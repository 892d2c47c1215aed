"""What the criteria of a run are given: its models, and how their errors say where in a configuration they arose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from kdhooks.config.mappings import LayerTap
from kdhooks.errors import KDHooksError, ModelError, UsageError
from kdhooks.messages import logger
from kdhooks.names import did_you_mean

Locate = Callable[[str, str, str], KDHooksError]
"""(path from the criterion's options on, what is wrong, what to do) -> the error to raise."""


def no_location(path: str, message: str, advice: str) -> KDHooksError:
    """The error of a criterion that was made in Python."""
    return ModelError(f"{path}: {message}" + (f". {advice}" if advice else ""))


@dataclass
class Bound:
    """The models of a run.

    Attributes:
        student: the student's layers, captured once for all criteria.
        teachers: by name.
        optimizer: the loop's, where it is known.
        first_input: gives the first input of the training data, or None, for as long as its block lasts.
        trains: whether steps of an optimizer will follow.
    """

    student: Any
    teachers: Mapping[str, Any]
    optimizer: Any = None
    first_input: Callable[[], AbstractContextManager[Any]] = nullcontext
    trains: bool = True


def say_made_later(what: str) -> None:
    """Warn that parameters of ours were asked for before there is anything that tells their shapes."""
    logger.warning(
        "the %s are made at the first loss, so they have no parameters yet: give on_train_begin a dataloader to have "
        "them now",
        what,
    )


class NoTeacher:
    """Stands where no teacher is set, for steps whose features are handed in.

    Attributes:
        model: None.
    """

    model: Any = None
    role, kind = "teacher", "(none is set)"

    def __init__(self) -> None:
        self.slots: dict[Any, Any] = {}

    def tap(self) -> NoTeacher:
        """Itself; there is nothing to capture."""
        return self

    def find(self, layer: str) -> str:
        """The name as it is; no model can say that it is wrong."""
        return layer

    def attach(self, keys: Any) -> None:
        """Nothing to put hooks on."""

    def on_train_begin(self) -> None:
        """Nothing stands on it."""

    untap = release = detach = on_train_end = on_train_begin


def followed(bound: Bound, wanted: str | None) -> str:
    """The name of the one teacher that is followed.

    Raises:
        UsageError: there is none of this name, or there are several and none is named.
    """
    names = list(bound.teachers)
    if wanted in names:
        return str(wanted)
    if wanted is not None:
        hint = did_you_mean(wanted, names, what="Teachers")
        raise UsageError(f"there is no teacher {wanted!r}. {hint}".rstrip())
    if not names:
        raise UsageError("features come from a teacher, and there is none: set teacher_model")
    if len(names) > 1:
        several = ", ".join(names)
        raise UsageError(f"features come from one teacher, and there are {several}: say which with teacher")
    return names[0]


def captured_features(taps: Any, wanted: Sequence[LayerTap]) -> dict[str, Any]:
    """What was captured, by layer; several calls as a list."""
    slots = {tap.layer: taps.slots.get(tap.key) for tap in wanted}
    return {
        layer: slot.calls[0] if len(slot.calls) == 1 else list(slot.calls)
        for layer, slot in slots.items()
        if slot is not None and slot.calls
    }
