"""A study in one process: proposals, records, limits of a search, pruning, and other searches' studies."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest

from kdhooks.config import DistillationConf
from kdhooks.config.model import Named
from kdhooks.config.search_settings import Choices, Limit, Range, SearchSettings
from kdhooks.errors import ConfigError, UsageError
from kdhooks.search.candidates import Candidate
from kdhooks.search.proposals.space import Space
from kdhooks.search.studies import study as study_module
from kdhooks.search.studies.study import Proposal, Study
from tests.core.search.searches import LIMIT, ROOT, settings, space, work

SMALL = Space([Choices("width", (8, 16)), Range("depth", 1, 2)])
FULL = Candidate(
    number=0,
    arch={"width": 8, "depth": 1},
    state="complete",
    metrics={"accuracy": 0.1 + 0.2, "latency": 0.004},
    spread={"latency": (0.003, 0.005)},
    seconds=1.5,
    weights="0.safetensors",
    stages=({"block": "layer1", "losses": {"total": 0.5}},),
)


def small(algorithm: str = "Grid", **changes: Any) -> Study:
    return Study(DistillationConf(), space=SMALL, settings=settings(algorithm, **changes))


def proposed(study: Study) -> Proposal:
    proposal = study.propose()
    assert proposal is not None
    return proposal


def complete(proposal: Proposal, accuracy: float = 0.5) -> Candidate:
    return Candidate(proposal.number, proposal.arch, "complete", {"accuracy": accuracy})


def test_a_candidate_comes_back_as_it_was_recorded(tmp_path: Path) -> None:
    for url in ("memory", f"journal:{tmp_path}/study.log", f"sqlite:///{tmp_path}/study.db"):
        with small(storage=url) as study:
            recorded = study.finish(proposed(study), FULL)
            assert recorded == replace(FULL, worker=recorded.worker)
            assert study.candidates() == [recorded]
    with small(storage=url) as study:
        assert study.candidates() == [recorded]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_candidate_without_a_usable_number_has_failed(tmp_path: Path, number: float) -> None:
    with small(storage=f"sqlite:///{tmp_path}/study.db") as study:
        recorded = study.finish(proposed(study), Candidate(0, {}, "complete", {"accuracy": number}))
        assert (recorded.state, recorded.reason) == ("failed", f"the metric accuracy is {number}")
        assert str(study.candidates()[0].metrics["accuracy"]) == str(number)
        recorded = study.finish(proposed(study), Candidate(0, {}, "complete", {"loss": 0.5}))
        assert (recorded.state, recorded.reason) == ("failed", "the metric accuracy is missing")


def test_the_seed_of_a_training_is_that_of_its_architecture() -> None:
    with small("Grid") as grid, small("Random") as random, small("Grid", seed=8) as other:
        seeds = {str(one.arch): one.seed for one in (proposed(grid) for _ in range(4))}
        assert len(set(seeds.values())) == 4
        for proposal in (proposed(random) for _ in range(4)):
            assert seeds[str(proposal.arch)] == proposal.seed
        assert proposed(other).seed not in seeds.values()


def test_the_search_ends_with_its_trials_or_its_space() -> None:
    with small(max_trials=3) as study:
        assert [one.number for one in work_simply(study)] == [0, 1, 2]
        assert study.propose() is None
    with small(max_trials=None) as study:
        assert len(work_simply(study)) == 4
        assert study.propose() is None
        assert [entry for entry in study._book.entries() if entry.stub] == []


def work_simply(study: Study) -> list[Candidate]:
    done = []
    while (proposal := study.propose()) is not None:
        done.append(study.finish(proposal, complete(proposal)))
    return done


def test_the_search_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(study_module.time, "monotonic", lambda: now[0])
    with small(timeout=100.0) as study:
        assert study.propose() is not None
        now[0] = 99.0
        assert study.propose() is not None
        now[0] = 100.0
        assert study.propose() is None


def test_open_proposals_of_our_own_end_a_search_too() -> None:
    """A program may take all proposals first; it must not wait for itself."""
    with small(max_trials=2) as study:
        first, second = proposed(study), proposed(study)
        assert study.propose() is None
        assert [one.state for one in study.candidates()] == ["running", "running"]
        for proposal in (second, first):
            study.finish(proposal, complete(proposal))
        assert [one.state for one in study.candidates()] == ["complete", "complete"]


def test_a_point_of_the_users_own() -> None:
    with small(max_trials=1) as study:
        proposal = study.given({"depth": 2.0, "width": 16})
        assert (proposal.number, proposal.arch) == (0, {"width": 16, "depth": 2})
        with pytest.raises(UsageError) as caught:
            study.given(proposal.arch)
        assert str(caught.value) == 'the architecture {"depth":2,"width":16} is candidate 0 already (running)'
        study.finish(proposal, complete(proposal))
        with pytest.raises(UsageError) as caught:
            study.given(proposal.arch)
        assert str(caught.value) == 'the architecture {"depth":2,"width":16} is candidate 0 already (complete)'
        assert study.propose() is None
        assert study.given({"depth": 1, "width": 16}).number == 1  # who asks for it gets more
        with pytest.raises(UsageError, match="'width' can't be 9: it is one of 8, 16"):
            study.given({"width": 9, "depth": 1})


def test_a_proposal_is_finished_once() -> None:
    with small() as study:
        proposal = proposed(study)
        study.finish(proposal, complete(proposal))
        for action in (lambda: study.finish(proposal, complete(proposal)), lambda: study.report(proposal, 0, 0.5)):
            with pytest.raises(UsageError) as caught:
                action()
            assert str(caught.value) == "candidate 0 is not in training here: it is finished, or not of this study"


def test_what_was_not_finished_is_given_back_and_comes_first(tmp_path: Path) -> None:
    url = f"journal:{tmp_path}/study.log"
    with small("Random", storage=url) as study:
        first, second, third = (proposed(study) for _ in range(3))
        study.finish(second, complete(second))
    with small("Random", storage=url) as study:
        assert [one.number for one in study.candidates()] == [1]
        assert [proposed(study), proposed(study)] == [first, third]
        assert study.given(next(point for point in SMALL.points() if point not in _taken(study))).number == 3


def _taken(study: Study) -> list[dict[str, Any]]:
    return [dict(one.arch) for one in study.candidates()]


def test_a_given_point_may_be_one_that_was_given_back(tmp_path: Path) -> None:
    url = f"journal:{tmp_path}/study.log"
    with small("Random", storage=url) as study:
        first, second = proposed(study), proposed(study)
    with small("Random", storage=url) as study:
        assert study.given(second.arch) == second
        assert proposed(study) == first


def test_an_interrupt_while_choosing_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    with small() as study:
        with monkeypatch.context() as patched:
            patched.setattr(study.advisor, "propose", _interrupted)
            with pytest.raises(KeyboardInterrupt):
                study.propose()
        assert study.candidates() == []
        assert proposed(study).number == 0


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_optuna_reads_the_study(tmp_path: Path) -> None:
    """What the Optuna Dashboard shows: parameters, values, states and attributes, all of them JSON."""
    url = f"sqlite:///{tmp_path}/study.db"
    with Study(
        DistillationConf(),
        space=space(),
        settings=settings("Random", storage=url, study_name="mine", limits=(LIMIT,), max_trials=30),
    ) as study:
        done = work(study)
    seen = optuna.load_study(study_name="mine", storage=url)
    assert seen.direction == optuna.study.StudyDirection.MAXIMIZE
    assert {one.state for one in done} == {"complete", "infeasible", "failed"}
    for trial, candidate in zip(seen.trials, done, strict=True):
        assert trial.params == candidate.arch
        is_complete = candidate.state == "complete"
        assert trial.state == (optuna.trial.TrialState.COMPLETE if is_complete else optuna.trial.TrialState.FAIL)
        assert trial.values == ([candidate.metrics["accuracy"]] if is_complete else None)
        assert json.loads(json.dumps(trial.user_attrs))["candidate"]["reason"] == candidate.reason
    best = max((one for one in done if one.state == "complete"), key=lambda one: one.metrics["accuracy"])
    assert seen.best_trial.params == best.arch
    seen._storage.remove_session()
    seen._storage._backend.engine.dispose()


@pytest.mark.parametrize(
    "pruner",
    [
        Named("median", {"warm_up": 1, "startup_trials": 2}),
        Named("Hyperband", {"least": 1, "most": 8, "factor": 2}),
        Named("successive_halving", {"least": 1, "factor": 2}),
    ],
    ids=lambda pruner: pruner.name,
)
def test_a_pruner_ends_poor_candidates(tmp_path: Path, pruner: Named) -> None:
    line = Space([Range("width", 0, 19)])
    given = settings("Random", storage=f"sqlite:///{tmp_path}/study.db", pruner=pruner, max_trials=16)
    with Study(DistillationConf(), space=line, settings=given) as study:
        while (proposal := study.propose()) is not None:
            score, step = 0.0, 0
            for step in range(8):
                score = proposal.arch["width"] / 20 * (1 - 0.5 ** (step + 1))
                if study.report(proposal, step, score):
                    study.finish(proposal, Candidate(0, {}, "pruned", reason="poor"))
                    break
            else:
                study.finish(proposal, complete(proposal, score))
        done = study.candidates()
    ended = [one.arch["width"] for one in done if one.state == "pruned"]
    kept = [one.arch["width"] for one in done if one.state == "complete"]
    assert len(done) == 16 and len(ended) >= 3
    assert sum(ended) / len(ended) < sum(kept) / len(kept)
    assert all(0 <= one.metrics["accuracy"] < 1 for one in done)  # a pruned one has its last score


def test_a_pruner_compares_one_metric() -> None:
    chosen = settings(pruner=Named("median"), metrics=("accuracy", "latency"), higher_is_better=(True, False))
    with pytest.raises(ConfigError) as caught:
        Study(DistillationConf(), space=SMALL, settings=chosen)
    assert str(caught.value) == (
        "<dict>: auto_distillation.search.pruner: a pruner compares one metric, and there are 2\n"
        "  Remove it, or search for one metric"
    )


OTHER = Space([Choices("width", (8, 32)), Range("depth", 1, 2)])
DIFFERENCES: list[tuple[Space, dict[str, Any], dict[str, Any], str]] = [
    (OTHER, {}, {}, "searched another space: it has 'width' [8, 16], and this search [8, 32]"),
    (
        Space([Choices("width", (8, 16))]),
        {},
        {},
        "searched another space: it has 'depth', and this search has not",
    ),
    (
        Space([*SMALL.dimensions, Choices("block", ("conv",))]),
        {},
        {},
        "searched another space: it has no 'block'",
    ),
    (
        SMALL,
        {"metrics": ("loss",)},
        {},
        'has other metrics: ["accuracy"], and this search has ["loss"]',
    ),
    (
        SMALL,
        {"higher_is_better": (False,)},
        {},
        "has another higher_is_better: [true], and this search has [false]",
    ),
    (
        SMALL,
        {"limits": (Limit("latency", True, 0.005, "latency <= 5 ms"),)},
        {},
        'has other limits: [], and this search has [["latency", true, 0.005]]',
    ),
    (SMALL, {"seed": 8}, {}, "has another seed: 7, and this search has 8"),
    (SMALL, {}, {"teacher": "b"}, 'is of another search: teacher was "a", and is "b"'),
]


@pytest.mark.parametrize(("other", "changes", "identity", "difference"), DIFFERENCES)
def test_a_study_of_another_search(
    tmp_path: Path, other: Space, changes: dict[str, Any], identity: dict[str, Any], difference: str
) -> None:
    url = f"journal:{tmp_path}/study.log"
    with Study(DistillationConf(), space=SMALL, settings=settings(storage=url), identity={"teacher": "a"}) as study:
        study.finish(proposed(study), FULL)
    given = settings(storage=url, **changes)
    with pytest.raises(ConfigError) as caught:
        Study(DistillationConf(), space=other, settings=given, identity={"teacher": "a", **identity})
    assert str(caught.value) == (
        f"<dict>: auto_distillation.search.storage: the study 'distillation' in {url} {difference}\n"
        "  Write another study_name for a new study"
    )


def test_what_may_change_between_two_runs(tmp_path: Path) -> None:
    url = f"journal:{tmp_path}/study.log"
    with small("Random", storage=url, max_trials=2) as study:
        assert len(work_simply(study)) == 2
    with small("Grid", storage=url, max_trials=3, timeout=60.0, heartbeat=5.0) as study:
        assert [one.number for one in work_simply(study)] == [2]


def test_a_study_that_is_not_ours(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    theirs = optuna.create_study(study_name="distillation", storage=url, direction="maximize")
    theirs.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    theirs._storage.remove_session()
    theirs._storage._backend.engine.dispose()
    with pytest.raises(ConfigError) as caught:
        small(storage=url)
    assert str(caught.value) == (
        f"<dict>: auto_distillation.search.storage: the study 'distillation' in {url} was not made by kdhooks\n"
        "  Write another study_name for a new study"
    )
    with small(storage=url, study_name="ours") as study:
        assert proposed(study).number == 0


def test_the_default_is_a_journal_in_the_runs_folder(tmp_path: Path) -> None:
    conf = DistillationConf({"tuning": {"workspace": {"path": str(tmp_path / "run")}}})
    with Study(conf, space=SMALL, settings=SearchSettings(search_algorithm="Random")) as study:
        assert study.url == f"journal:{tmp_path}/run/search.log"
        assert (tmp_path / "run" / "search.log").exists()


def test_importing_the_rooms_files_imports_no_optuna() -> None:
    program = (
        "import sys, pkgutil, importlib, kdhooks.search as room\n"
        "import kdhooks.search.studies.study, kdhooks.search.proposals.space\n"
        "print(*sorted({'optuna', 'sqlalchemy', 'cmaes', 'torch', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
