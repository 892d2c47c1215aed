"""The section ``auto_distillation``: the search, its stages, and how candidates are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdhooks.config import leaves as a
from kdhooks.config.expressions import Wrong
from kdhooks.config.rules import ListOf, OneOf, Report
from kdhooks.config.search_limits import ConstraintText, Written, constraint, measured_name
from kdhooks.config.search_settings import (
    MEASURED,
    AutoDistillationSettings,
    Dimension,
    Limit,
    MeasureSettings,
    Range,
    Relation,
    SearchSettings,
)
from kdhooks.config.search_space import SearchSpace
from kdhooks.config.search_stages import FLASH, REGULAR, Distillations
from kdhooks.config.search_words import Duration, StudyStorage
from kdhooks.config.sections import Key, Law, Names, Section
from kdhooks.config.source import BROKEN, join
from kdhooks.names import did_you_mean, fold

Values = Mapping[str, Any]

ALGORITHM = OneOf(
    {
        **{name: name for name in ("Grid", "Random", "BO", "TPE", "CMA-ES", "NSGA-II")},
        **{"grid search": "Grid", "random search": "Random", "nsga2": "NSGA-II", "cma": "CMA-ES"},
        **dict.fromkeys(("bayesian optimization", "bayesian", "bayes", "gaussian process", "GP"), "BO"),
        "tree-structured parzen estimator": "TPE",
    }
)
KEPT = OneOf({"best": "best", "all": "all", "none": "none"})


@dataclass(frozen=True)
class Metric:
    """The name of a metric; a measured one may be spelled as names are."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The name, of a measured metric as the table spells it."""
        found = a.TEXT.check(value, path, report)
        return found if found is BROKEN else measured_name(found)


METRICS = ListOf(Metric(), "a list of metrics", least=1, alone=True)


def signs_of(metrics: Sequence[str]) -> tuple[bool, ...]:
    """Whether higher is better, where the configuration doesn't say.

    >>> signs_of(("accuracy", "latency"))
    (True, False)
    """
    return tuple(MEASURED.get(name, True) for name in metrics)


def _names(value: Any) -> tuple[str, ...]:
    """The metrics, of which one may stand alone."""
    return (value,) if isinstance(value, str) else value or ("accuracy",)


def _metrics_differ(values: Values, path: str, report: Report) -> None:
    names = _names(values.get("metrics"))
    for index, name in enumerate(names):
        if fold(name) in map(fold, names[:index]):
            report.add(join(path, f"metrics[{index}]"), f"{name} is given twice", "Keep one of them.")


def _signs_agree(values: Values, path: str, report: Report) -> None:
    """One of ``higher_is_better`` for each metric."""
    names, signs = _names(values.get("metrics")), values.get("higher_is_better")
    count = len(signs) if isinstance(signs, tuple) else 1
    if signs is not None and count != len(names):
        message = f"expected one boolean for each metric ({', '.join(names)}), got {count}"
        usual = ", ".join(str(sign).lower() for sign in signs_of(names))
        report.add(join(path, "higher_is_better"), message, f"Write [{usual}], or remove it for just that.")


def _best_is_known(values: Values, path: str, report: Report) -> None:
    names, best = _names(values.get("metrics")), values.get("best_by", "ideal")
    if fold(best) != "ideal" and measured_name(best) not in names:
        advice = did_you_mean(best, ("ideal", *names), what="Known")
        report.add(join(path, "best_by"), f"{best!r} is neither 'ideal' nor one of metrics", advice)


def _grid_is_finite(values: Values, path: str, report: Report) -> None:
    """A grid has points that can be counted."""
    if values.get("search_algorithm") != "Grid":
        return
    for dimension in values.get("search_space") or ():
        if isinstance(dimension, Range) and not dimension.integer and dimension.step is None:
            message = f"may be any number from {dimension.low:g} to {dimension.high:g}, and a Grid has only some"
            report.add(dimension.path, message, "Write choices or a step, or another search_algorithm.", of_key=True)


def _one_metric(values: Values, path: str, report: Report) -> None:
    """Some ways to search know one metric only."""
    count = len(_names(values.get("metrics")))
    if count > 1 and values.get("search_algorithm") == "CMA-ES":
        message = f"CMA-ES searches for one metric, and there are {count}"
        report.add(join(path, "search_algorithm"), message, "Write NSGA-II, TPE or BO.")
    if count > 1 and values.get("pruner") is not None:
        message = f"a pruner compares one metric, and there are {count}"
        report.add(join(path, "pruner"), message, "Remove it, or search for one metric.", of_key=True)


def _constraints_are_known(values: Values, path: str, report: Report) -> None:
    """Every constraint can be read, and names what is there."""
    for one in _constraints(values.get("constraints")):
        try:
            constraint(one, *_context(values))
        except Wrong as wrong:
            report.add(wrong.finding.path, wrong.finding.message, wrong.finding.suggestion)


def _context(values: Values) -> tuple[Sequence[str], Mapping[str, Dimension] | None]:
    """The metrics, and the dimensions by name; None where they aren't known."""
    space = values.get("search_space")
    known = None if space is BROKEN or not space else {dimension.name: dimension for dimension in space}
    return _names(values.get("metrics")), known


def _constraints(value: Any) -> Sequence[Written]:
    return (value,) if isinstance(value, Written) else value or ()


def _search(*, constraints: Any = (), metrics: Any = None, higher_is_better: Any = None, **values: Any) -> Any:
    """The settings of the search; BROKEN where a law has found something."""
    names = _names(metrics)
    found = []
    for one in _constraints(constraints):
        try:
            found.append(constraint(one, *_context({**values, "metrics": names})))
        except Wrong:  # a law has told
            return BROKEN
    signs = (higher_is_better,) if isinstance(higher_is_better, bool) else higher_is_better or signs_of(names)
    best = values.pop("best_by", "ideal")
    return SearchSettings(
        search_space=values.pop("search_space", None) or (),
        metrics=names,
        higher_is_better=signs,
        limits=tuple(one for one in found if isinstance(one, Limit)),
        relations=tuple(one for one in found if isinstance(one, Relation)),
        best_by="ideal" if fold(best) == "ideal" else measured_name(best),
        **values,
    )


PRUNER = Names(
    "pruner",
    options={
        "median": Section(
            (
                Key("warm_up", a.FROM_ZERO, 0, "epochs of a candidate before it may be ended"),
                Key("startup_trials", a.FROM_ONE, 5, "candidates before one may be ended"),
            ),
            lambda **values: values,
        ),
        "hyperband": Section(
            (
                Key("least", a.FROM_ONE, 1, "epochs that every candidate gets"),
                Key("most", a.FROM_ONE, None, "epochs that the best ones get; empty: those of train"),
                Key("factor", a.FROM_TWO, 3, "one of so many candidates goes on"),
            ),
            lambda **values: values,
        ),
        "successive_halving": Section(
            (
                Key("least", a.FROM_ONE, 1, "epochs that every candidate gets"),
                Key("factor", a.FROM_TWO, 4, "one of so many candidates goes on"),
            ),
            lambda **values: values,
        ),
    },
)

SEARCH = Section(
    (
        Key("search_space", SearchSpace(), None, "values of the builder's parameters; empty: the program sets it"),
        Key("search_algorithm", ALGORITHM, "BO", "Grid, Random, BO (a Gaussian process), TPE, CMA-ES or NSGA-II"),
        Key("metrics", METRICS, ["accuracy"], "what is searched for, the most important first"),
        Key("higher_is_better", a.SIGNS, None, "for each metric; empty: false for latency, memory and sizes"),
        Key("max_trials", a.FROM_ONE, 10, "candidates at most; empty: the whole space", null=True),
        Key("seed", a.SEED, 42, "of the proposals, and with an architecture of its training"),
        Key(
            "constraints",
            ListOf(ConstraintText(), "a list of constraints", alone=True),
            [],
            "limits and relations, as in latency <= 5 ms, parameters <= 10e6, hidden_size % heads == 0",
        ),
        Key("pruner", PRUNER, None, "ends poor candidates early: median, hyperband or successive_halving"),
        Key("storage", StudyStorage(), None, "URL of the study, as in sqlite:///study.db; empty: a journal file"),
        Key("study_name", a.TEXT, None, "of several studies in one storage; empty: the model's name"),
        Key("timeout", Duration(), None, "seconds, or as in 2 h, after which no candidate begins"),
        Key("startup_trials", a.FROM_ONE, None, "random candidates before the algorithm proposes; empty: its own"),
        Key("best_by", a.TEXT, "ideal", "the best of several metrics: ideal, or the name of one"),
        Key("keep_weights", KEPT, "best", "of the best candidates, of all, or of none"),
        Key("heartbeat", a.POSITIVE, 20.0, "seconds between a worker's signs of life"),
    ),
    _search,
    laws=(
        Law(("metrics",), _metrics_differ),
        Law(("metrics", "higher_is_better"), _signs_agree),
        Law(("metrics", "best_by"), _best_is_known),
        Law(("search_space", "search_algorithm"), _grid_is_finite),
        Law(("metrics", "search_algorithm", "pruner"), _one_metric),
        Law(("constraints", "metrics"), _constraints_are_known),
    ),
)
MEASURE = Section(
    (
        Key("batch_size", a.FROM_ONE, 1, "rows of the batch that is measured"),
        Key("warm_up", a.FROM_ZERO, 5, "runs that don't count"),
        Key("repeats", a.FROM_ONE, 30, "runs that do; their median is the metric"),
        Key("threads", a.FROM_ONE, None, "of the framework during the measurement; empty: as they are"),
    ),
    MeasureSettings,
)


@dataclass(frozen=True)
class Evaluation(Section):
    """What the section ``evaluation`` of a file has, with or without its key ``accuracy``."""

    def check(self, value: Any, path: str, report: Report) -> Any:
        """The settings of the evaluation."""
        accuracy = self.keys[0]
        if isinstance(value, Mapping) and value and accuracy.name not in value:
            return accuracy.rule.check(value, path, report)
        return super().check(value, path, report)


def _one_regular(values: Values, path: str, report: Report) -> None:
    flash = values.get("flash_distillation")
    if flash is not None and flash.regular is not None and values.get("regular_distillation") is not None:
        message = "stands inside of flash_distillation as well, and only one of them can be meant"
        report.add(join(path, "regular_distillation"), message, "Keep one of them.", of_key=True)


def _settings(
    *,
    flash_distillation: Distillations | None = None,
    regular_distillation: Any = None,
    **values: Any,
) -> AutoDistillationSettings:
    inside = flash_distillation or Distillations(None, None)
    return AutoDistillationSettings(flash=inside.flash, regular=regular_distillation or inside.regular, **values)


def auto_distillation(train: Section, evaluation: Section) -> Section:
    """The section.

    Args:
        train: the rule of ``distillation.train``.
        evaluation: the rule of the section ``evaluation``.
    """
    return Section(
        (
            Key("search", SEARCH, {}, "which architectures are tried, and what they are judged by"),
            Key("flash_distillation", FLASH, None, "a candidate learns block by block, for a short time"),
            Key("regular_distillation", REGULAR, None, "then as a whole"),
            Key("measure", MEASURE, {}, "how latency, throughput and memory are measured"),
            Key("train", train, None, "the loop of all stages; empty: distillation.train"),
            Key(
                "evaluation",
                Evaluation(evaluation.keys, evaluation.build),
                None,
                "what a candidate is judged by; empty: the section evaluation",
            ),
        ),
        _settings,
        laws=(Law(("flash_distillation", "regular_distillation"), _one_regular),),
    )
