"""Proposes architectures that nobody has tried.

A proposal is a function of the seed, its number and the candidates before it, and of nothing that is kept in memory.
So a search that was killed goes on as if it had not been.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.config.search_settings import SearchSettings
from kdhooks.search.candidates import Candidate
from kdhooks.search.proposals.drawing import first_unseen, nearest_unseen, unseen
from kdhooks.search.proposals.evolution import evolve
from kdhooks.search.proposals.history import Told, told
from kdhooks.search.proposals.samplers import ask, check_packages, startup
from kdhooks.search.proposals.seeds import seed_of
from kdhooks.search.proposals.space import Arch, Code, Space

# So many times an algorithm is asked, each time with another seed, before the nearest unseen one is taken.
_ASKED = 4
_ASKED_BO = 2  # a Gaussian process is dear, and has the same favourite every time


class Advisor:
    """A search algorithm.

    Args:
        space: what is searched.
        settings: the algorithm and its seed.
        sampler: of Optuna's, which is asked in place of the algorithm; what it keeps in memory is its own affair.

    Raises:
        MissingPackageError: the algorithm needs a package that is not installed.

    >>> from kdhooks.config.search_settings import Choices
    >>> space = Space([Choices("width", (8, 16)), Choices("depth", (1, 2))])
    >>> Advisor(space, SearchSettings(search_algorithm="Grid")).propose(0, [])
    {'width': 8, 'depth': 1}
    """

    def __init__(self, space: Space, settings: SearchSettings, sampler: Any = None) -> None:
        if sampler is None:
            check_packages(settings.search_algorithm)
        self.space, self.settings, self._sampler = space, settings, sampler

    def propose(self, number: int, candidates: Sequence[Candidate]) -> Arch | None:
        """The architecture of the candidate with this number; None where none is left.

        Args:
            number: counted from 0.
            candidates: all before it, finished and running.
        """
        seen = {self.space.key(candidate.arch) for candidate in candidates}
        if self.settings.search_algorithm == "Grid" and self._sampler is None:
            return first_unseen(self.space, seen)
        generator = random.Random(seed_of("draw", self.settings.seed, number))
        finished = sum(candidate.state != "running" for candidate in candidates)
        if self._sampler is None and finished < startup(self.settings):
            return unseen(self.space, seen, generator)
        if not self.space.exceeds(len(seen)):
            return None
        history = told(self.space, self.settings, candidates)
        wished = None
        for attempt in range(_ASKED_BO if self.settings.search_algorithm == "BO" else _ASKED):
            seed = seed_of("ask", self.settings.seed, number, attempt)
            arch = self.space.decode(self._ask(history, seed))
            if self.space.keeps_relations(arch) and self.space.key(arch) not in seen:
                return arch
            wished = wished or arch
        return nearest_unseen(self.space, seen, wished or {}, generator)

    def _ask(self, history: Sequence[Told], seed: int) -> Code:
        if self.settings.search_algorithm == "CMA-ES" and self._sampler is None:
            return evolve(self.space, self.settings, history, seed)
        return ask(self.space, self.settings, history, seed, self._sampler)


def check_fits(conf: DistillationConf, space: Space, settings: SearchSettings) -> None:
    """ConfigError where the algorithm or the pruner can't be used for such a search."""
    algorithm, pruner = "auto_distillation.search.search_algorithm", "auto_distillation.search.pruner"
    count = len(settings.metrics)
    if settings.search_algorithm == "Grid" and space.continuous:
        name = next(each.name for each in space.axes.values() if each.continuous)
        message = f"Grid needs values that can be counted, and {name!r} may be any number of a range"
        raise conf.problem(algorithm, message, "Give the range a step, or write Random")
    if settings.search_algorithm == "CMA-ES" and count > 1:
        message = f"CMA-ES searches for one metric, and there are {count}"
        raise conf.problem(algorithm, message, "Write NSGA-II, TPE or BO")
    if settings.pruner is not None and count > 1:
        message = f"a pruner compares one metric, and there are {count}"
        raise conf.problem(pruner, message, "Remove it, or search for one metric")
