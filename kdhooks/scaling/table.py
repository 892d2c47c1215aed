"""Estimates side by side, as a person reads them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from kdhooks.scaling.estimates import Estimate, estimate
from kdhooks.scaling.models import Model

GB = 1e9


class Way(NamedTuple):
    """One way to distil on a number of ranks: the options of `estimate`, and what they come to."""

    ranks: int
    strategy: str
    teaching: str
    found: Estimate


def ways(student: Model, teacher: Model, ranks: Iterable[int], **options: Any) -> Iterator[Way]:
    """DDP and FSDP with each way of having a teacher, on each number of ranks; one rank has nothing to share."""
    for count in ranks:
        for strategy in ("ddp", "fsdp") if count > 1 else ("ddp",):
            for teaching in ("replicated", "sharded", "stored") if count > 1 else ("replicated", "stored"):
                given: Any = {"ranks": count, "strategy": strategy, "teaching": teaching, **options}
                yield Way(count, strategy, teaching, estimate(student, teacher, **given))


def table(found: Iterable[Way], device_bytes: float) -> str:
    """A row a way, in Markdown; gigabytes are 10^9 bytes.

    Args:
        found: the ways.
        device_bytes: of one device, of which a tenth is left for what no formula knows.
    """
    lines = [
        "| ranks | student | teacher | kept GB | peak GB | fits | sent GB a step | read MB a step | TFLOP a step |",
        "| --- " * 9 + "|",
    ]
    for way in found:
        one, strategy = way.found, way.strategy.upper() if way.ranks > 1 else "alone"
        cells = [f"{way.ranks:,}", strategy, way.teaching, f"{one.kept_bytes / GB:.1f}", f"{one.memory_bytes / GB:.1f}"]
        cells += ["yes" if one.fits(device_bytes) else "**no**", f"{one.traffic_bytes / GB:.1f}"]
        cells += [f"{one.read / 1e6:.1f}", f"{one.flops / 1e12:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def parts(found: Estimate) -> str:
    """One estimate part by part, in Markdown."""
    lines = ["| part | GB |", "| --- | --- |"]
    lines += [f"| {name} | {value / GB:.2f} |" for name, value in found.memory.items()]
    lines += [f"| {name}, sent a step | {value / GB:.2f} |" for name, value in found.traffic.items()]
    return "\n".join(lines)
