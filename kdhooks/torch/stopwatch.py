"""Time on a CUDA device, which works behind the host: events in its stream, read once it has passed them.

Rules: recording an event waits for nothing, and neither does asking whether it has passed. The stretches between events
are the stream's own time, its waiting for the host included, so that they add up to a step as the host's would.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from kdhooks.ledger import Stopwatch


class CudaStopwatch(Stopwatch):
    """Stamps are events, which are used again once they are given back.

    Args:
        device: where the student is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = f"{device} ({torch.cuda.get_device_name(device)})"
        self.note = "times are those of the device's stream, its waiting for the host included"
        self.tracing = torch.cuda.is_current_stream_capturing  # a graph that is being recorded can't be asked
        self._device = device
        self._free: list[Any] = []

    def stamp(self) -> Any:
        """An event that the device's current stream will pass."""
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def between(self, stamps: Sequence[Any]) -> list[float]:
        """Seconds from each event to the next one."""
        pairs = pairwise(stamps)
        return [earlier.elapsed_time(later) / 1e3 for earlier, later in pairs]  # which gives milliseconds

    def known(self, stamp: Any) -> bool:
        """Whether the device has passed an event."""
        return bool(stamp.query())

    def wait(self, stamp: Any) -> None:
        """Wait until the device has passed an event."""
        stamp.synchronize()

    def give_back(self, stamps: Sequence[Any]) -> None:
        """Events to use again."""
        self._free += stamps


def stopwatch_of(student: nn.Module) -> Stopwatch:
    """What times the steps of a student, by where its first parameter is."""
    parameter = next(student.parameters(), None)
    if parameter is not None and parameter.device.type == "cuda":
        return CudaStopwatch(parameter.device)
    watch = Stopwatch()
    if parameter is not None and parameter.device.type not in ("cpu", "meta"):
        watch.device = parameter.device.type
        watch.note = "this device works behind the host, whose clock this is: only the time of whole steps is sure"
    return watch
