"""How a candidate can end before its last metric, and how that is said."""

from __future__ import annotations

from kdhooks.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    KDHooksError,
    MissingPackageError,
    NonFiniteLossError,
    UsageError,
    told,
)
from kdhooks.search.candidates import State

MISTAKES = (ConfigError, UsageError, MissingPackageError, DataError, CheckpointError)
"""Errors of the program, the configuration, the data: the next candidate would end in the same way."""


class Ended(Exception):
    """A candidate ends here.

    Attributes:
        state: ``infeasible``, ``failed`` or ``pruned``.
        reason: in words.
    """

    def __init__(self, state: State, reason: str) -> None:
        super().__init__(state, reason)
        self.state, self.reason = state, reason


def reason_of(error: BaseException, doing: str) -> str:
    """Why a candidate failed.

    Args:
        error: that ended it.
        doing: whose code was running, for example ``model_builder``.
    """
    if isinstance(error, NonFiniteLossError):  # its hint is about checkpoints, which a candidate doesn't keep
        where = f"the loss component {error.component!r} became NaN or infinite at step {error.step}"
        return "\n".join([where, *error.hint.splitlines()[1:]])
    if isinstance(error, KDHooksError):
        return str(error)
    return f"{doing} raised {told(error)}"
