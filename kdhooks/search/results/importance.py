"""Which parameters decide about a metric: what Optuna's evaluators say of the candidates of a result.

fANOVA (Hutter, Hoos and Leyton-Brown 2014) takes a forest of trees apart: how much of the metric's variance comes from
each parameter. With tens of candidates it errs least, but it knows only parameters that every candidate has, and it
needs scikit-learn. In other cases PED-ANOVA (Watanabe, Bansal and Hutter 2023, arXiv:2304.10255) asks how differently
a parameter is distributed among the best third of the candidates and among all of them.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from kdhooks.config.search_settings import Choices, Dimension
from kdhooks.search.results.pareto import scores_of

if TYPE_CHECKING:
    from kdhooks.search.results.result import SearchResult

FEWEST = 10
"""With fewer complete candidates nothing is said."""


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
    conditional = any(one.name not in arch for one in dimensions for arch, _ in points)
    try:
        shares, method = _shares(points, dimensions, conditional=conditional)
    except ImportError:
        return Importance(metric, method="It needs Optuna: pip install 'kdhooks[search]'.")
    return Importance(metric, shares, method)


def _shares(
    points: list[tuple[Mapping[str, Any], float]], dimensions: list[Dimension], *, conditional: bool
) -> tuple[dict[str, float], str]:
    """What Optuna says, on a study in memory with one score that is maximised; and how it was found."""
    import optuna

    from kdhooks.search.quiet import quiet

    with quiet(), warnings.catch_warnings():
        # PED-ANOVA warns of a condition that held only once, and leaves it out.
        warnings.filterwarnings("ignore", message="Some regimes for parameter")
        study = optuna.create_study(storage=optuna.storages.InMemoryStorage(), direction="maximize")
        for arch, score in points:
            here = [one for one in dimensions if one.name in arch]
            study.add_trial(
                optuna.create_trial(
                    params={one.name: _coordinate(arch, one) for one in here},
                    distributions={one.name: _distribution(one) for one in here},
                    value=score,
                )
            )
        evaluator, method = _evaluator(len(points), conditional=conditional)
        found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}, method


def _evaluator(count: int, *, conditional: bool) -> tuple[Any, str]:
    """Optuna's evaluator for so many candidates, and what its shares are."""
    from optuna.importance import FanovaImportanceEvaluator, PedAnovaImportanceEvaluator

    if not conditional:
        try:
            evaluator = FanovaImportanceEvaluator(seed=0)
            return evaluator, f"fANOVA (Optuna): a parameter's share of the variance over {count} complete candidates."
        except ImportError:  # without scikit-learn
            pass
    best = round(count / 3)
    told = f"PED-ANOVA (Optuna): how much a parameter decides whether a candidate is among the best {best} of {count}."
    return PedAnovaImportanceEvaluator(target_quantile=best / count), told


def _key(arch: Mapping[str, Any], dimension: Dimension) -> str:
    return repr(arch.get(dimension.name))


def _coordinate(arch: Mapping[str, Any], dimension: Dimension) -> Any:
    """Choices by their place; numbers by size, so that neighbours are alike."""
    value = arch[dimension.name]
    if isinstance(dimension, Choices):
        values = sorted(dimension.values) if dimension.ordered else dimension.values
        return next(place for place, one in enumerate(values) if type(one) is type(value) and one == value)
    return value


def _distribution(dimension: Dimension) -> Any:
    import optuna.distributions as distributions

    if isinstance(dimension, Choices):
        if dimension.ordered:
            return distributions.IntDistribution(0, len(dimension.values) - 1)
        return distributions.CategoricalDistribution(range(len(dimension.values)))
    if dimension.integer:
        whole = 1 if dimension.log else int(dimension.step or 1)
        return distributions.IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=whole)
    step = None if dimension.log else dimension.step
    return distributions.FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=step)
