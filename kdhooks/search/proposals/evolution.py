"""CMA-ES with margin (Hamano et al., 2022, https://arxiv.org/abs/2205.13482), rebuilt from the history.

Optuna keeps such an optimizer as a pickle in the study; nothing is unpickled here. The finished candidates are told
to a new one, generation by generation, which takes milliseconds. The margin keeps whole numbers from getting stuck
on one value. Parameters without an order are drawn by chance, since a distribution has no direction there.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kdhooks.config.search_settings import SearchSettings
from kdhooks.search.proposals.axes import Axis
from kdhooks.search.proposals.history import Told
from kdhooks.search.proposals.space import Code, Space

_SIGMA = 1 / 4  # of the width of the space, at the beginning


def evolve(space: Space, settings: SearchSettings, history: Sequence[Told], seed: int) -> Code:
    """What CMA-ES proposes next.

    Args:
        space: whose codes are asked for.
        settings: with one metric.
        history: all candidates before.
        seed: of this proposal.
    """
    generator = random.Random(seed)
    code = space.encode(space.draw(generator))
    finished = [each for each in history if each.values is not None]
    searched = [each for each in space.axes.values() if each.ordered and (each.continuous or len(each.values) > 1)]
    start = settings.startup_trials or 0
    if not searched:
        return code
    optimizer = _optimizer(searched, finished[:start], settings)
    size = optimizer.population_size
    later = finished[start:]
    for begin in range(0, len(later) - size + 1, size):
        optimizer.tell([(_point(searched, each), _cost(settings, each)) for each in later[begin : begin + size]])
    optimizer.reseed_rng(seed)
    point, _ = optimizer.ask()
    for each, coordinate in zip(searched, point, strict=False):
        if math.isfinite(coordinate):  # a distribution that has shrunk to a point may give none
            code[each.name] = each.encode(each.nearest(float(coordinate)))
    return code


def _optimizer(searched: Sequence[Axis], start: Sequence[Told], settings: SearchSettings) -> Any:
    from cmaes import CMAwM

    mean = np.full(max(2, len(searched)), 0.5)
    if start:
        mean = _point(searched, min(start, key=lambda each: _cost(settings, each)))
    steps = np.zeros(len(mean))
    for place, each in enumerate(searched):
        if not each.continuous and not each.logarithmic:
            steps[place] = 1 / (len(each.values) - 1)
    bounds = np.tile(np.array([0.0, 1.0]), (len(mean), 1))
    return CMAwM(mean=mean, sigma=_SIGMA, bounds=bounds, steps=steps, seed=0)


def _point(searched: Sequence[Axis], each: Told) -> NDArray[np.float64]:
    """A candidate between 0 and 1 on each axis: whole numbers by their ranks.

    A second axis stands beside a single one, since CMA-ES needs two; nothing depends on it.
    """
    places = [axis.place(axis.decode(each.code[axis.name])) for axis in searched]
    return np.array([*places, 0.5][: max(2, len(places))], dtype=np.float64)


def _cost(settings: SearchSettings, each: Told) -> float:
    """What is made small: the metric, and above all values the violation."""
    assert each.values is not None
    if each.violation > 0:
        return 1e30 * (1 + each.violation)
    return -each.values[0] if settings.higher_is_better[0] else each.values[0]
