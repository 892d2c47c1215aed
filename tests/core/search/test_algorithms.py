"""Search algorithms: the same seed proposes the same, nothing twice, and failures are learned from."""

from __future__ import annotations

import importlib.util
import random
from typing import Any

import numpy as np
import pytest

from kdhooks.config import DistillationConf
from kdhooks.config.search_settings import Choices, Dimension, Limit, Range, SearchSettings
from kdhooks.errors import ConfigError, MissingPackageError
from kdhooks.search.candidates import Candidate
from kdhooks.search.proposals.advisor import Advisor
from kdhooks.search.proposals.space import Space
from kdhooks.search.studies.study import Study
from tests.core.search.searches import ALGORITHMS, LIMIT, plain, score, searched, settings, space

LEARNING = ("BO", "TPE", "CMA-ES", "NSGA-II")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_seed_proposes_the_same(algorithm: str) -> None:
    first = searched(algorithm, 16, limits=(LIMIT,))
    assert plain(first) == plain(searched(algorithm, 16, limits=(LIMIT,)))
    assert len({space().key(one.arch) for one in first}) == 16
    if algorithm != "Grid":
        assert plain(first) != plain(searched(algorithm, 16, limits=(LIMIT,), seed=8))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_two_metrics(algorithm: str) -> None:
    chosen = settings(algorithm, metrics=("accuracy", "parameters"), higher_is_better=(True, False), startup_trials=4)
    if algorithm == "CMA-ES":
        with pytest.raises(ConfigError) as caught:
            Study(DistillationConf(), space=space(), settings=chosen)
        assert str(caught.value) == (
            "<dict>: auto_distillation.search.search_algorithm: CMA-ES searches for one metric, and there are 2\n"
            "  Write NSGA-II, TPE or BO"
        )
        return
    found = searched(
        algorithm, 14, metrics=("accuracy", "parameters"), higher_is_better=(True, False), startup_trials=4
    )
    assert len({space().key(one.arch) for one in found}) == 14


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_space_is_used_up_and_nothing_is_tried_twice(algorithm: str) -> None:
    small = Space([Choices("width", (8, 16, 32)), Choices("block", ("conv", "dense")), Range("depth", 1, 2)])
    chosen = settings(algorithm, startup_trials=3)
    tried: list[Candidate] = []
    advisor = Advisor(small, chosen)
    while (arch := advisor.propose(len(tried), tried)) is not None:
        tried.append(Candidate(len(tried), arch, "complete", {"accuracy": score({"depth": 2, **arch})}))
    assert sorted(small.key(one.arch) for one in tried) == sorted(small.key(arch) for arch in small.points())


@pytest.mark.parametrize("algorithm", LEARNING)
def test_a_space_of_numbers_between_others(algorithm: str) -> None:
    dimensions: list[Dimension] = [
        Range("rate", 1e-5, 1e-1, log=True, integer=False),
        Range("drop", 0.0, 0.5, integer=False),
        Range("width", 1, 1024, log=True),
    ]
    mixed = Space(dimensions)
    tried: list[Candidate] = []
    advisor = Advisor(mixed, settings(algorithm, startup_trials=4))
    for number in range(12):
        arch = advisor.propose(number, tried)
        assert arch is not None and mixed.check(arch) == arch
        tried.append(Candidate(number, arch, "complete", {"accuracy": -abs(arch["drop"] - 0.2)}))
    assert len({mixed.key(one.arch) for one in tried}) == 12


@pytest.mark.parametrize("algorithm", LEARNING)
@pytest.mark.parametrize("state", ["failed", "infeasible"])
def test_failures_drive_the_search_away(algorithm: str, state: Any) -> None:
    """Half of the space fails; chance would propose it half of the time."""
    halves = Space([Range("side", 0, 19), Range("width", 0, 19), Choices("block", ("conv", "dense"))])
    limit = Limit("latency", at_most=True, bound=1.0, text="latency <= 1 s")
    chosen = settings(algorithm, limits=(limit,), startup_trials=10)
    advisor = Advisor(halves, chosen)
    generator, tried = random.Random(1), list[Candidate]()
    for number in range(40):
        arch = halves.draw(generator) if number < 20 else advisor.propose(number, tried)
        assert arch is not None
        if arch["side"] >= 10:
            latency = {"latency": 1.0 + arch["side"] / 20} if state == "infeasible" else {}
            tried.append(Candidate(number, arch, state, latency))
        else:
            metrics = {"accuracy": 0.5 + arch["width"] / 100 + random.Random(number).random() / 50, "latency": 0.5}
            tried.append(Candidate(number, arch, "complete", metrics))
    bad = sum(one.state == state for one in tried[20:])
    assert bad <= 6, f"{bad} of 20 proposals were in the half that fails"


def test_random_is_even_and_without_replacement() -> None:
    """Every architecture of a space with conditions is equally likely to be the first."""
    some = space()
    counts: dict[str, int] = {}
    for seed in range(3000):
        arch = Advisor(some, settings("Random", seed=seed)).propose(0, [])
        assert arch is not None
        counts[str(arch["block"])] = counts.get(str(arch["block"]), 0) + 1
    size = some.size()
    assert size is not None
    for block, count in counts.items():
        share = sum(point["block"] == block for point in some.points()) / size
        assert abs(count / 3000 - share) < 0.03


def test_a_search_goes_on_where_everything_fails() -> None:
    for algorithm in LEARNING:
        advisor, tried = Advisor(space(), settings(algorithm, startup_trials=3)), list[Candidate]()
        for number in range(6):
            arch = advisor.propose(number, tried)
            assert arch is not None
            tried.append(Candidate(number, arch, "failed", reason="no"))


@pytest.mark.parametrize("algorithm", LEARNING)
def test_running_candidates_are_left_alone(algorithm: str) -> None:
    """Eight workers ask while all others train: no point twice, also where the algorithm likes one very much."""
    advisor = Advisor(space(), settings(algorithm, startup_trials=5))
    tried = searched("Random", 12)
    for number in range(12, 20):
        arch = advisor.propose(number, tried)
        assert arch is not None
        tried.append(Candidate(number, arch))
    assert len({space().key(one.arch) for one in tried}) == 20


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_programs_generators_and_loggers_are_untouched(algorithm: str, capfd: pytest.CaptureFixture[str]) -> None:
    import logging

    import torch

    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    level, threads = logging.getLogger("optuna").level, torch.get_num_threads()
    searched(algorithm, 8, startup_trials=3)
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before
    assert (logging.getLogger("optuna").level, torch.get_num_threads()) == (level, threads)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("algorithm", "package", "message"),
    [
        ("BO", "torch", "the search algorithm BO needs the package 'torch': pip install 'kdhooks[torch]'"),
        ("BO", "scipy", "the search algorithm BO needs the package 'scipy': pip install 'kdhooks[search]'"),
        ("CMA-ES", "cmaes", "the search algorithm CMA-ES needs the package 'cmaes': pip install 'kdhooks[search]'"),
        ("Random", "optuna", "a search needs the package 'optuna': pip install 'kdhooks[search]'"),
    ],
)
def test_a_missing_package(monkeypatch: pytest.MonkeyPatch, algorithm: str, package: str, message: str) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else found(name))
    with pytest.raises(MissingPackageError) as caught:
        Study(DistillationConf(), space=space(), settings=settings(algorithm))
    assert str(caught.value) == message


def test_grid_needs_values_that_can_be_counted() -> None:
    some = Space([Choices("width", (1, 2)), Range("rate", 0.0, 1.0, integer=False)])
    with pytest.raises(ConfigError) as caught:
        Study(DistillationConf(), space=some, settings=settings("Grid"))
    assert str(caught.value) == (
        "<dict>: auto_distillation.search.search_algorithm: Grid needs values that can be counted, and 'rate' may be "
        "any number of a range\n  Give the range a step, or write Random"
    )


def test_a_grid_in_its_order() -> None:
    some, tried = Space([Choices("width", (16, 8)), Range("depth", 1, 2)]), list[Candidate]()
    advisor = Advisor(some, SearchSettings(search_algorithm="Grid"))
    while (arch := advisor.propose(len(tried), tried)) is not None:
        tried.append(Candidate(len(tried), arch))
    assert [one.arch for one in tried] == list(some.points())
