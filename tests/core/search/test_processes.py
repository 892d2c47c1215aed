"""Workers in processes of their own: killed at any moment, and several at one study."""

from __future__ import annotations

import random
import signal
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kdhooks.config import DistillationConf
from kdhooks.search.candidates import Candidate
from kdhooks.search.studies.study import Study
from tests.core.search.searches import LIMIT, begin, end, plain, searched, settings, space, start

URLS = ("sqlite:///{}/study.db", "journal:{}/study.log")


def seen(url: str, algorithm: str, trials: int) -> tuple[list[Candidate], list[int]]:
    """The candidates of a study, and the numbers of all records that stand in it."""
    given = settings(algorithm, storage=url, max_trials=trials, limits=(LIMIT,))
    with Study(DistillationConf(), space=space(), settings=given) as study:
        records = [one.number for one in study._book.entries() if one.record is not None and one.number is not None]
        return study.candidates(), sorted(records)


def killed(url: str, algorithm: str, trials: int, kills: int, seed: int) -> None:
    """A search that is killed at random moments, and then goes on to its end."""
    generator = random.Random(seed)
    for _ in range(kills):
        process = start(url, algorithm, trials, 0.04)
        begin(process)
        time.sleep(generator.uniform(0.0, 0.35))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    process = start(url, algorithm, trials, 0.0)
    begin(process)
    end(process)


def check_kills(url: str, algorithm: str, trials: int, seed: int, kills: int = 10) -> None:
    killed(url, algorithm, trials, kills, seed)
    candidates, records = seen(url, algorithm, trials)
    assert plain(candidates) == plain(searched(algorithm, trials, limits=(LIMIT,)))
    assert records == list(range(trials)), "every point was finished once"


def check_two_of_four_killed(url: str, moments: tuple[float, float]) -> None:
    """Four workers, of which two die one after the other, do what one does."""
    processes = [start(url, "Random", 20, 0.1) for _ in range(4)]
    for process in processes:
        begin(process)
    for moment, process in zip(moments, processes, strict=False):
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    for process in processes[2:]:
        end(process)
    candidates, records = seen(url, "Random", 20)
    assert [one.number for one in candidates] == records == list(range(20))
    assert len({space().key(one.arch) for one in candidates}) == 20


@pytest.mark.parametrize("url", URLS)
def test_ten_kills_at_random_moments_change_nothing(tmp_path: Path, url: str) -> None:
    check_kills(url.format(tmp_path), "TPE", 20, seed=len(url))


@pytest.mark.soak
@pytest.mark.parametrize("algorithm", ["BO", "CMA-ES", "NSGA-II", "Random", "Grid"])
@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("seed", range(3))
def test_kills_with_every_algorithm(tmp_path: Path, url: str, algorithm: str, seed: int) -> None:
    check_kills(url.format(tmp_path), algorithm, 24, seed)


@pytest.mark.parametrize("death", ["choosing", "training", "finishing"])
@pytest.mark.parametrize("url", URLS)
def test_a_worker_that_dies(tmp_path: Path, url: str, death: str) -> None:
    """The next one takes up what it had begun, at once, and the sequence is that of a search without deaths."""
    url = url.format(tmp_path)
    process = start(url, "TPE", 14, 0.0, death)
    begin(process)
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    process = start(url, "TPE", 14, 0.0)
    begin(process)
    end(process)
    candidates, records = seen(url, "TPE", 14)
    assert plain(candidates) == plain(searched("TPE", 14, limits=(LIMIT,)))
    assert records == list(range(14))


def together(url: str, workers: int, trials: int, seconds: float, algorithm: str = "Random") -> list[dict[str, Any]]:
    """What so many workers say who begin one study together."""
    processes = [start(url, algorithm, trials, seconds) for _ in range(workers)]
    for process in processes:
        begin(process)
    return [end(process) for process in processes]


def wall(told: Sequence[dict[str, Any]]) -> float:
    return max(one["end"] for one in told) - min(one["begin"] for one in told)


def check_four(url: str, alone_url: str, overhead: str = "processor", trials: int = 12, seconds: float = 1.0) -> None:
    """No candidate lost or doubled, four are quicker than one, and under 0.2 s beside a trial.

    On the clock that can be seen on a quiet machine only (`make soak`); else the processor's time is looked at.
    """
    alone = together(alone_url, 1, trials, seconds)
    told = together(url, 4, trials, seconds)
    candidates, records = seen(url, "Random", trials)
    assert [one.number for one in candidates] == records == list(range(trials))
    assert sorted(number for one in told for number in one["numbers"]) == records
    assert len({space().key(one.arch) for one in candidates}) == trials
    assert len({one.worker for one in candidates}) == 4
    assert wall(told) <= 0.6 * wall(alone), (wall(told), wall(alone))
    for side in (alone, told):
        overheads = [found for one in side for found in one[overhead]]
        assert statistics.median(overheads) < 0.2, overheads


@pytest.mark.parametrize("url", URLS)
def test_four_workers_at_one_study(tmp_path: Path, url: str) -> None:
    check_four(url.format(tmp_path), url.format(tmp_path / "alone"))


@pytest.mark.soak
@pytest.mark.parametrize("url", URLS)
def test_the_overhead_on_the_clock(tmp_path: Path, url: str) -> None:
    check_four(url.format(tmp_path), url.format(tmp_path / "alone"), "overheads")


@pytest.mark.parametrize("url", URLS)
def test_four_workers_of_which_two_are_killed(tmp_path: Path, url: str) -> None:
    check_two_of_four_killed(url.format(tmp_path), (0.3, 0.15))


@pytest.mark.soak
@pytest.mark.parametrize("url", URLS)
def test_eight_workers_without_any_training(tmp_path: Path, url: str) -> None:
    """As many meet at the storage as can."""
    told = together(url.format(tmp_path), 8, 160, 0.0, "TPE")
    candidates, records = seen(url.format(tmp_path), "TPE", 160)
    assert [one.number for one in candidates] == records == list(range(160))
    assert sorted(number for one in told for number in one["numbers"]) == records
