"""Where the time of a step goes: parts that are timed, by name; off unless somebody asks.

Rules: a part is timed where the work is handed out, never inside of a formula. Off, a part costs one call.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext


class Ledger:
    """Times the parts of steps; this one, which runs use until `profile` is asked for, times nothing."""

    def part(self, name: str) -> AbstractContextManager[object]:
        """Time what the block does under a name: ``teacher``, ``cache``, ``losses``.

        A part inside of a part counts for the inner one only.
        """
        return _NOTHING

    def count(self, name: str, number: int) -> None:
        """Add to a count: ``hits``, ``misses``."""


_NOTHING = nullcontext()

OFF = Ledger()
"""What a step has where nothing is timed."""
