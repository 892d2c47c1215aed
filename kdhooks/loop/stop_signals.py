"""Ctrl-C and SIGTERM during the built-in loop: finish the step, write a checkpoint, then end.

Rules: handlers are installed in the main thread only, never over one that ignores the signal, and the former
handlers are back when the block is left. Nothing is written or logged inside a handler.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopSignals:
    """The first signal asks the loop to stop at the next step's end; a second one ends at once.

    Attributes:
        asked: the number of the signal that came, or None.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                handler = signal.getsignal(number)
                if handler not in (signal.SIG_IGN, None):  # ignored on purpose, or not Python's to restore
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            self.end(number)
        self.asked = number

    def end(self, number: int | None = None) -> NoReturn:
        """Raise what the signal stands for.

        Raises:
            KeyboardInterrupt: after Ctrl-C.
            SystemExit: after SIGTERM, with the shell's exit code for it, 143.
        """
        number = number or self.asked or signal.SIGTERM
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)
