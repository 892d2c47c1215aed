"""Searches that were never run: made-up candidates with every state, for the tests of what shows them."""

from __future__ import annotations

import random
from typing import Any

from kdhooks.config.search_settings import Choices, Limit, Range, SearchSettings, When
from kdhooks.search.candidates import Candidate
from kdhooks.search.results.result import SearchResult

TWO = SearchSettings(metrics=("accuracy", "latency"), higher_is_better=(True, False))
SPACE = (
    Choices("width", (16, 32, 64, 128)),
    Range("layers", 2, 8),
    Choices("block", ("plain", "residual", "separable")),
    Choices("kernel", (3, 5, 7), when=(When("block", ("plain", "residual")),)),
    Range("rate", 1e-4, 1e-1, log=True, integer=False),
)
SETTINGS = SearchSettings(
    search_space=SPACE,
    search_algorithm="TPE",
    metrics=("accuracy", "latency", "parameters"),
    higher_is_better=(True, False, False),
    max_trials=60,
    limits=(Limit("latency", True, 0.005, "latency <= 5 ms"),),
    storage="postgresql://me:secret@host/studies",
)


def complete(number: int, *values: float, names: tuple[str, ...] = ("accuracy", "latency")) -> Candidate:
    """A complete candidate with these metrics."""
    return Candidate(
        number, {"width": 8 * (number + 1)}, "complete", dict(zip(names, values, strict=True)), seconds=1.0
    )


def searched(count: int = 60, *, settings: SearchSettings = SETTINGS, seed: int = 3) -> SearchResult:
    """A result with candidates of all states: accuracy mostly follows the width, latency width and layers."""
    draw = random.Random(seed)
    return SearchResult([_candidate(number, draw) for number in range(count)], settings, name="made up")


def _candidate(number: int, draw: random.Random) -> Candidate:
    arch: dict[str, Any] = {
        "width": draw.choice((16, 32, 64, 128)),
        "layers": draw.randint(2, 8),
        "block": draw.choice(("plain", "residual", "separable")),
    }
    if arch["block"] != "separable":
        arch["kernel"] = draw.choice((3, 5, 7))
    arch["rate"] = 10 ** draw.uniform(-4, -1)
    size = float(arch["width"] * arch["width"] * arch["layers"] * arch.get("kernel", 2))
    latency = 2e-4 + size * 1.1e-8 * draw.uniform(0.95, 1.05)
    accuracy = 0.98 - 1.6 / arch["width"] - 0.05 / arch["layers"] + draw.gauss(0.0, 0.004)
    seconds = 3.0 + draw.random()
    if number % 13 == 6:
        return Candidate(number, arch, "failed", reason="the builder raised ValueError: no <such> block", seconds=0.1)
    if number % 11 == 5:
        return Candidate(number, arch, "pruned", {"accuracy": accuracy - 0.1}, reason="pruned at epoch 2", seconds=1.0)
    metrics = {"accuracy": accuracy, "latency": latency, "parameters": size}
    spread = {"latency": (latency * 0.96, latency * 1.07)}
    if latency > 0.005:
        del metrics["accuracy"]
        reason = f"latency {latency * 1000:.2f} ms breaks latency <= 5 ms"
        return Candidate(number, arch, "infeasible", metrics, spread, reason, 0.2)
    return Candidate(number, arch, "complete", {**metrics, "macs": size * 50}, spread, seconds=seconds)
