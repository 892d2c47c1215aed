"""Optuna's samplers, asked in a study of their own.

For every question a study in memory is made from the history, with a sampler that is seeded for this question. So a
proposal depends on the seed and the history alone, samplers keep nothing in the user's storage, and what they should
believe of failed candidates need not stand there either.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

from kdhooks.config.search_settings import SearchSettings
from kdhooks.errors import MissingPackageError
from kdhooks.search.proposals.history import Told
from kdhooks.search.proposals.space import Code, Space
from kdhooks.search.quiet import quiet

POPULATION = 10
"""Of NSGA-II: searches for a student have tens of candidates, not thousands."""
_STARTUP = {"BO": 5, "TPE": 10, "CMA-ES": 0, "NSGA-II": POPULATION}


def startup(settings: SearchSettings) -> float:
    """How many candidates are drawn by chance before the algorithm proposes; infinity for Random."""
    if settings.search_algorithm not in _STARTUP:
        return float("inf")
    least = {"CMA-ES": 0, "NSGA-II": 2}.get(settings.search_algorithm, 1)
    chosen = settings.startup_trials
    return max(least, _STARTUP[settings.search_algorithm] if chosen is None else chosen)


def check_packages(algorithm: str) -> None:
    """MissingPackageError where an algorithm needs what is not installed."""
    if algorithm == "BO":
        for package, extra in (("torch", "torch"), ("scipy", "search")):
            if importlib.util.find_spec(package) is None:
                raise MissingPackageError(package, "the search algorithm BO", extra)
    if algorithm == "CMA-ES" and importlib.util.find_spec("cmaes") is None:
        raise MissingPackageError("cmaes", "the search algorithm CMA-ES", "search")


def ask(space: Space, settings: SearchSettings, history: Sequence[Told], seed: int, sampler: Any = None) -> Code:
    """What the sampler of the settings proposes next.

    Args:
        space: whose codes are asked for.
        settings: for BO, TPE or NSGA-II.
        history: all candidates before.
        seed: of the sampler.
        sampler: is asked in place of that of the settings; None is that one.
    """
    import optuna
    from optuna.study import StudyDirection

    distributions = {name: each.distribution() for name, each in space.axes.items()}
    directions = [StudyDirection.MAXIMIZE if up else StudyDirection.MINIMIZE for up in settings.higher_is_better]
    with quiet():
        study = optuna.create_study(
            storage=optuna.storages.InMemoryStorage(),
            sampler=sampler or _sampler(settings, seed),
            directions=directions,
        )
        has_violations = any(each.violation > 0 for each in history)
        finished = 0
        for each in history:
            attributes = {}
            if each.values is not None:
                attributes = _generation(settings, finished)
                finished += 1
            study.add_trial(_trial(each, distributions, attributes, has_violations))
        code: Code = dict(study.ask(distributions).params)
    return code


def _sampler(settings: SearchSettings, seed: int) -> Any:
    from optuna import samplers

    drawn = int(startup(settings))
    if settings.search_algorithm == "NSGA-II":
        return samplers.NSGAIISampler(population_size=drawn, seed=seed)
    if settings.search_algorithm == "TPE":
        return samplers.TPESampler(n_startup_trials=drawn, multivariate=True, seed=seed)
    return samplers.GPSampler(
        n_startup_trials=drawn, deterministic_objective=True, seed=seed, warn_independent_sampling=False
    )


def _generation(settings: SearchSettings, finished: int) -> dict[str, int]:
    """The note by which NSGA-II knows generations: here they are the finished candidates in their order."""
    if settings.search_algorithm != "NSGA-II":
        return {}
    from optuna.samplers import NSGAIISampler

    return {NSGAIISampler._get_generation_key(): finished // int(startup(settings))}


def _trial(each: Told, distributions: dict[str, Any], attributes: dict[str, int], has_violations: bool) -> Any:
    from optuna.trial import TrialState, create_trial

    is_finished = each.values is not None
    trial = create_trial(
        state=TrialState.COMPLETE if is_finished else TrialState.RUNNING,
        values=each.values,
        params=dict(each.code),
        distributions=distributions,
        system_attrs=dict(attributes),
    )
    if is_finished and has_violations:  # a model of them is worth its time only where there are some
        trial.set_constraint("violation", each.violation)
    return trial
