"""What a model is and costs: its entry in a record."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from kdhooks.compared.limits import Limits
from kdhooks.compared.looks import Looks
from kdhooks.config.search_settings import MeasureSettings
from kdhooks.errors import KDHooksError, told

_SLOW = 0.5
"""Seconds a row from which on a forward is measured three times only."""


def cost_of(
    looks: Looks, backend: Any, model: Any, inputs: Any, speeds: Mapping[str, float], limits: Limits
) -> tuple[dict[str, Any], list[str]]:
    """Class, size, latency and MACs of a model, and why some of it is not there.

    Args:
        looks: tells the bytes of the weights.
        backend: measures.
        model: in any state; afterwards as it was.
        inputs: of one row; None where there are none.
        speeds: seconds a row took, as far as known.
        limits: of the cost.
    """
    slow = max(speeds.values(), default=0.0) > _SLOW
    settings = MeasureSettings(batch_size=1, warm_up=1 if slow else 3, repeats=3 if slow else limits.repeats)
    reasons: list[str] = []

    def measured(name: str) -> Any:
        try:
            return backend.measure(model, inputs, [name], settings)[name]
        except KDHooksError as error:
            reasons.append(str(error).splitlines()[0])
        except Exception as error:  # whatever a foreign model raises
            reasons.append(told(error))
        return None

    entry: dict[str, Any] = {"class": type(model).__name__, "parameters": _whole(measured("parameters"))}
    size = looks.bytes_of(model)
    entry["file_bytes"] = _whole(measured("file_size")) if size <= limits.file_bytes else size
    entry |= {"latency_ms": None, "macs": None}
    if inputs is not None:
        with _frozen():
            latency = measured("latency")
        if latency is not None:
            low, high = latency.low * 1e3, latency.high * 1e3
            entry["latency_ms"] = {"median": latency.value * 1e3, "low": low, "high": high}
        entry["macs"] = _whole(measured("macs"))
    return entry, reasons


@contextmanager
def _frozen() -> Iterator[None]:
    """Within the block the garbage collector leaves alone what is there already.

    A measurement collects first, and a program with frameworks in it has millions of objects to look through.
    """
    ours = not gc.get_freeze_count()
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


def _whole(measured: Any) -> int | None:
    return None if measured is None else int(measured.value)
