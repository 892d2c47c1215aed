"""Messages to the person at the terminal: the logger ``kdhooks``, from rank 0 only.

Nothing in the package prints by itself but the command line. A program that has configured logging
keeps its own handlers and levels; elsewhere messages of level INFO go to standard error as they are.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout

logger = logging.getLogger("kdhooks")

_rank: Callable[[], int] | None = None


def ask_rank(function: Callable[[], int]) -> None:
    """Let a backend say which rank this process is, once it knows better than the environment."""
    global _rank
    _rank = function


def is_rank_zero() -> bool:
    """Whether this process may speak and write files for all."""
    if _rank is not None:
        return _rank() == 0
    return environment_rank() == 0


def environment_rank() -> int:
    """The rank that the launcher's environment says; 0 where it says none."""
    return int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0)


class _RankZero(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return is_rank_zero()


logger.addFilter(_RankZero())


@contextmanager
def warnings_only() -> Iterator[None]:
    """Within the block messages of level INFO are left out; a program that asks for more than these gets all."""
    level = logger.level
    if logging.DEBUG < logger.getEffectiveLevel() < logging.WARNING:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def others_silent() -> Iterator[None]:
    """Within the block nothing is warned, logged or printed: exporters tell their developers of themselves."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        try:
            yield
        finally:
            logging.disable(before)


def speak_by_default() -> None:
    """Give the logger a handler of its own where the program has configured no logging at all."""
    if logger.handlers or logging.getLogger().handlers or logger.level:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
