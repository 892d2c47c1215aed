"""What a person sees of the built-in loop: a bar on a terminal, a line an epoch elsewhere.

Rules: only rank 0 shows anything. Text and curves are renewed every `EVERY` steps and not more often, because
reading the losses waits for the device.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

from tqdm import tqdm

from kdhooks.messages import is_rank_zero, logger

EVERY = 50
"""Steps between two readings of the losses."""


class Progress:
    """The bar of the epoch that is under way, and the time that the other epochs will take.

    Args:
        last_epoch: the number of the last epoch.
    """

    def __init__(self, last_epoch: int) -> None:
        self._last = last_epoch
        self._bar: Any = None
        self._epochs, self._began = 0, time.perf_counter()

    def begin_epoch(self, epoch: int, total: int | None, done: int) -> None:
        """Show an empty bar, or one that begins in the middle.

        Args:
            epoch: its number.
            total: batches of the epoch, or None.
            done: batches before the checkpoint that is continued.
        """
        if is_rank_zero() and sys.stderr is not None and sys.stderr.isatty():
            name = f"epoch {epoch}/{self._last}"
            self._bar = tqdm(desc=name, total=total, initial=done, unit="step", file=sys.stderr, dynamic_ncols=True)

    def advance(self, batches: int) -> None:
        """So many batches more."""
        if self._bar is not None:
            self._bar.update(batches)

    def show(self, losses: Mapping[str, float], rate: float | None) -> None:
        """Renew the text beside the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(described(losses, rate), refresh=False)

    def close(self) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def end_epoch(self, record: Mapping[str, Any]) -> None:
        """Say what the epoch brought and how long the others will take."""
        self.close()
        self._epochs += 1
        text = described({**record["losses"], **record["metrics"]}, record["learning_rate"])
        left = (time.perf_counter() - self._began) / self._epochs * (self._last - record["epoch"])
        ending = f", {duration(left)} left" if left > 0 else ""
        best = " (best)" if record["best"] else ""
        epoch = f"epoch {record['epoch']}/{self._last}"
        logger.info("%s: %s, %s%s%s", epoch, text, duration(record["seconds"]), ending, best)


def described(values: Mapping[str, float], rate: float | None) -> str:
    """Values by name in one line.

    >>> described({"CE": 0.25, "total": 1.5}, 0.01)
    'CE 0.2500, total 1.5000, lr 1.0e-02'
    """
    parts = [f"{name} {value:.4f}" for name, value in values.items()]
    return ", ".join(parts if rate is None else [*parts, f"lr {rate:.1e}"])


def duration(seconds: float) -> str:
    """A time as a person says it.

    >>> duration(4.25), duration(95), duration(7260)
    ('4.2 s', '1 min 35 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    return f"{minutes} min {int(seconds) % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
