"""How a callback gets at its `Trainer`, and how what it replaces there is put back.

A `Trainer` hands a callback its model and optimizer, and not itself. It is found among the program's objects: it is the
one whose list of callbacks holds this very callback.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from transformers import Trainer, trainer_utils

from kdhooks.torch.wrappers import living

_ABSENT = object()


class Guarded(Protocol):
    """What a guard of a training tells about it."""

    def training_begins(self, trainer: Any, checkpoint: Path | None) -> None:
        """`train` was called, to go on from a checkpoint or anew."""

    def training_left(self) -> None:
        """`train` was left, by an exception perhaps; a second call does nothing."""


class Replaced:
    """Methods that are replaced on single objects, until `undo`."""

    def __init__(self) -> None:
        self._before: list[tuple[Any, str, Any]] = []

    def put(self, owner: Any, name: str, make: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        """Replace a method by what `make` gives for it; where the object has none, nothing happens."""
        original = getattr(owner, name, None)
        if original is not None:
            self._before.append((owner, name, vars(owner).get(name, _ABSENT)))
            setattr(owner, name, functools.wraps(original)(make(original)))

    def undo(self) -> None:
        """Put everything back, the last first."""
        while self._before:
            owner, name, before = self._before.pop()
            if before is not _ABSENT:
                setattr(owner, name, before)
            elif name in vars(owner):
                delattr(owner, name)


def has_callback(trainer: Any, callback: Any) -> bool:
    """Whether a trainer, which may be half made, has this very callback."""
    handler = vars(trainer).get("callback_handler")
    return handler is not None and any(one is callback for one in handler.callbacks)


def trainer_of(callback: Any) -> Any:
    """The trainer that has this callback, the youngest where several have it; None where none is found."""
    found = [one for one in living(Trainer) if has_callback(one, callback)]
    training = [one for one in found if vars(one).get("is_in_train")]
    return (training or found or [None])[-1]


def guard(trainer: Any, callback: Guarded) -> None:
    """Tell a callback when `trainer.train` is called, and when it is left."""
    train = trainer.train
    if getattr(train, "guards", None) is callback:
        return

    @functools.wraps(train)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not has_callback(trainer, callback):  # it was taken off again
            return train(*args, **kwargs)
        callback.training_begins(trainer, _checkpoint(trainer, train, args, kwargs))
        try:
            return train(*args, **kwargs)
        finally:
            callback.training_left()

    guarded.guards = callback  # type: ignore[attr-defined]
    trainer.train = guarded


def guarded_by(callback: Guarded) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Makes a method that tells the callback where it raises, for a training that is under way already."""

    def make(original: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*args: Any, **kwargs: Any) -> Any:
            try:
                return original(*args, **kwargs)
            except BaseException:
                callback.training_left()
                raise

        return guarded

    return make


def _checkpoint(trainer: Any, train: Any, args: Any, kwargs: Any) -> Path | None:
    """The folder that `train` is asked to go on from."""
    try:
        asked = inspect.signature(train).bind(*args, **kwargs).arguments.get("resume_from_checkpoint")
    except TypeError:  # `train` itself says what is wrong
        return None
    if asked is True:
        functions: Any = trainer_utils  # which has no types
        asked = functions.get_last_checkpoint(trainer.args.output_dir)
    return Path(asked) if asked else None
