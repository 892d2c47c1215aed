"""How a teacher runs where that was left to ``auto``: kept beside its outputs, so that a second run finds them.

Timing may choose otherwise the next time, and a teacher in another precision has other outputs. So what was chosen on
a processor stands in the store, under a fingerprint of the teacher without its precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdhooks.errors import CheckpointError, KDHooksError
from kdhooks.speed import Choice

if TYPE_CHECKING:
    from kdhooks.cache import Store

CHOICE = "choice"
"""The key of a space's record that holds a choice, and no rows."""


class KeptChoice:
    """The choice of one teacher on one processor.

    Args:
        store: where its outputs are.
        base: the teacher's fingerprint, with the processor's name and without a precision.
        about: what ``kdhooks cache info`` shows of it.
    """

    def __init__(self, store: Store, base: str, about: dict[str, str]) -> None:
        self._space, self._about = store.space(f"{CHOICE}-{base}"), about

    def read(self) -> Choice | None:
        """What was chosen before, if anything was."""
        record = self._space.record()
        try:
            return None if record is None else Choice.from_dict(record.get(CHOICE))  # type: ignore[arg-type]
        except CheckpointError:  # of a newer kdhooks
            return None

    def write(self, choice: Choice) -> None:
        """Keep a choice, where none is kept yet."""
        try:
            self._space.describe({CHOICE: choice.to_dict(), "about": self._about})
        except KDHooksError:  # a damaged record stands there: the next run times again
            return
