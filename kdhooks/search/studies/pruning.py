"""Ends candidates early by their scores, by rules of Optuna's, asked in a study of their own.

As with samplers, that study is made from the candidates and has their numbers, so stubs of dead workers change no
decision.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdhooks.config.model import Named
from kdhooks.names import fold
from kdhooks.search.quiet import quiet
from kdhooks.search.studies.book import Entry


@dataclass(frozen=True)
class Course:
    """The scores of one candidate.

    Attributes:
        number: of the candidate.
        scores: by step.
        running: whether it is in training.
        complete: whether it was trained to its end and has a value.
        rungs: what successive halving noted of it.
    """

    number: int
    scores: Mapping[int, float]
    running: bool
    complete: bool
    rungs: Mapping[str, Any]


def courses_of(entries: Iterable[Entry], mine: int) -> list[Course]:
    """The scores of all candidates.

    Args:
        entries: all tickets.
        mine: the trial that is asked about.
    """
    found = []
    for each in entries:
        if each.number is not None and not each.stub:
            state = "running" if each.record is None else each.record["state"]
            is_running = state == "running" or each.trial_id == mine
            found.append(Course(each.number, each.scores, is_running, state == "complete", each.rungs))
    return found


def is_hopeless(
    pruner: Named, higher_is_better: bool, courses: Sequence[Course], number: int
) -> tuple[bool, dict[str, Any]]:
    """Whether a candidate should end now, and what is to be noted of it.

    Args:
        pruner: ``median``, ``hyperband`` or ``successive_halving`` with its options.
        higher_is_better: of the scores.
        courses: of all candidates, that one too.
        number: of the candidate.
    """
    import optuna
    from optuna.storages import InMemoryStorage
    from optuna.study import StudyDirection

    direction = StudyDirection.MAXIMIZE if higher_is_better else StudyDirection.MINIMIZE
    by_number = {each.number: each for each in courses}
    with quiet():
        rule = _rule(pruner)
        study = optuna.create_study(storage=InMemoryStorage(), study_name="search", pruner=rule, direction=direction)
        for each in range(max(by_number) + 1):
            study.add_trial(_trial(by_number.get(each)))
        before = study.trials[number]
        is_over = bool(rule.prune(study, before))
        noted = study.trials[number].system_attrs
    return is_over, {name: value for name, value in noted.items() if name not in before.system_attrs}


def _rule(pruner: Named) -> Any:
    from optuna import pruners

    options = dict(pruner.options)
    if fold(pruner.name) == "median":
        return pruners.MedianPruner(
            n_startup_trials=options.get("startup_trials", 5), n_warmup_steps=options.get("warm_up", 0)
        )
    if fold(pruner.name) == "hyperband":
        return pruners.HyperbandPruner(
            min_resource=options.get("least", 1),
            max_resource=options.get("most") or "auto",
            reduction_factor=options.get("factor", 3),
        )
    return pruners.SuccessiveHalvingPruner(
        min_resource=options.get("least", 1), reduction_factor=options.get("factor", 4)
    )


def _trial(course: Course | None) -> Any:
    from optuna.trial import TrialState, create_trial

    if course is None:  # a number whose worker died, and which nobody has taken up yet
        return create_trial(state=TrialState.FAIL)
    state = TrialState.RUNNING if course.running else TrialState.COMPLETE if course.complete else TrialState.FAIL
    last = course.scores[max(course.scores)] if course.scores else 0.0
    return create_trial(
        state=state,
        value=last if course.complete else None,
        intermediate_values=dict(course.scores),
        system_attrs=dict(course.rungs),
    )
