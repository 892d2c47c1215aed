"""Which parameters decide about a metric: Optuna's PED-ANOVA, on the candidates of a result.

PED-ANOVA (Watanabe, Bansal and Hutter 2023, arXiv:2304.10255) asks how differently a parameter is distributed among
the best candidates and among all of them. It takes conditional parameters as they are and needs nothing but Optuna.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdhooks.config.search_settings import Choices, Dimension
from kdhooks.search.pareto import scores_of

if TYPE_CHECKING:
    from kdhooks.search.result import SearchResult

FEWEST, _BEST_SHARE, _BEST_FEWEST = 10, 0.1, 5


@dataclass(frozen=True)
class Importance:
    """How much each parameter decides about one metric.

    Attributes:
        metric: that is meant.
        shares: by parameter, the largest first, with the sum 1; empty where nothing can be said.
        method: what the shares are, in words, or why there are none.
    """

    metric: str
    shares: Mapping[str, float] = field(default_factory=dict)
    method: str = ""


def importance_of(result: SearchResult, metric: str) -> Importance:
    """The importance of all parameters of the search space for one metric, over the complete candidates.

    Args:
        result: of the search; its settings have the space.
        metric: one of those that are searched for.
    """
    place = result.settings.metrics.index(metric)
    points = [
        (candidate.arch, scores[place])
        for candidate in result.candidates
        if (scores := scores_of(candidate, result.settings)) is not None
    ]
    dimensions = [one for one in result.settings.search_space if len({_key(arch, one) for arch, _ in points}) > 1]
    if len(points) < FEWEST:
        return Importance(metric, method=f"It needs at least {FEWEST} complete candidates, not {len(points)}.")
    if len({score for _, score in points}) == 1:
        return Importance(metric, method="All candidates have the same value.")
    if not dimensions:
        return Importance(metric, method="No parameter of the search space varies.")
    best = max(_BEST_FEWEST, round(_BEST_SHARE * len(points)))
    try:
        shares = _shares(points, dimensions, best / len(points))
    except ImportError:
        return Importance(metric, method="It needs Optuna: pip install 'kdhooks[search]'.")
    text = f"PED-ANOVA (Optuna): how much it decides whether a candidate is among the best {best} of {len(points)}."
    return Importance(metric, shares, text)


def _shares(
    points: list[tuple[Mapping[str, Any], float]], dimensions: list[Dimension], quantile: float
) -> dict[str, float]:
    """What Optuna says, on a study in memory with one score that is maximised."""
    import optuna

    study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="maximize")
    with warnings.catch_warnings():
        # Before Optuna 5.0 the evaluator is experimental; a condition that held only once is left out, with a warning.
        warnings.simplefilter("ignore")
        for arch, score in points:
            here = [one for one in dimensions if one.name in arch]
            study.add_trial(
                optuna.create_trial(
                    params={one.name: _coordinate(arch, one) for one in here},
                    distributions={one.name: _distribution(one) for one in here},
                    value=score,
                )
            )
        evaluator = optuna.importance.PedAnovaImportanceEvaluator(target_quantile=quantile)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}


def _key(arch: Mapping[str, Any], dimension: Dimension) -> str:
    return repr(arch.get(dimension.name))


def _coordinate(arch: Mapping[str, Any], dimension: Dimension) -> Any:
    """Choices by their place, so that neighbours are alike where they are numbers."""
    value = arch[dimension.name]
    if isinstance(dimension, Choices):
        return next(place for place, one in enumerate(dimension.values) if type(one) is type(value) and one == value)
    return value


def _distribution(dimension: Dimension) -> Any:
    import optuna.distributions as distributions

    if isinstance(dimension, Choices):
        if dimension.ordered:
            return distributions.IntDistribution(0, len(dimension.values) - 1)
        return distributions.CategoricalDistribution(range(len(dimension.values)))
    if dimension.integer:
        step = 1 if dimension.log else int(dimension.step or 1)
        return distributions.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    step = None if dimension.log else dimension.step
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=step)
