"""Who is dead: on this machine at once, elsewhere by missing signs of life."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from kdhooks.config import DistillationConf
from kdhooks.search.candidates import Candidate
from kdhooks.search.studies import claims as claims_module
from kdhooks.search.studies import workers
from kdhooks.search.studies.study import Study
from kdhooks.search.studies.workers import Heart, Watch, myself, shown
from tests.core.search.searches import plain, searched, settings, space, trained, work

ELSEWHERE = {**myself(20.0), "machine": "another/boot", "pid": 1, "token": "theirs"}


def test_a_process_of_this_machine() -> None:
    watch, child = (
        Watch(),
        subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE),
    )
    there = {**myself(20.0), "pid": child.pid, "started": workers._started(child.pid)}
    assert not watch.is_dead(1, there, beat=0)
    assert watch.is_dead(1, {**there, "started": "1"}, beat=0), "another process got its number"
    child.kill()
    while workers._started(child.pid) != "":  # a dead child that nobody waited for is a zombie
        time.sleep(0.01)
    assert watch.is_dead(1, there, beat=0)
    child.communicate()
    assert watch.is_dead(1, there, beat=0)
    assert watch.is_dead(1, {**there, "started": ""}, beat=0), "without start times the number alone decides"
    assert not watch.is_dead(1, {**myself(20.0), "started": ""}, beat=0)
    assert shown({"host": "node7", "pid": 12}) == "node7:12"


def test_a_worker_elsewhere_is_dead_after_three_missing_signs() -> None:
    now = [0.0]
    watch = Watch(lambda: now[0])
    for moment, beat, is_dead in [
        (0.0, 0, False),
        (60.0, 0, False),
        (60.5, 0, True),
        (61.0, 1, False),  # it was only slow
        (121.0, 1, False),
        (121.5, 1, True),
    ]:
        now[0] = moment
        assert watch.is_dead(1, ELSEWHERE, beat) == is_dead
    assert not watch.is_dead(2, ELSEWHERE, 1), "the time counts from the first look"


def test_a_worker_here_that_is_only_slow() -> None:
    """On a busy machine a living process may miss some signs; one that gives none at all has lost its study."""
    now = [0.0]
    watch, here = Watch(lambda: now[0]), myself(20.0)
    for moment, is_dead in [(0.0, False), (61.0, False), (400.0, False), (401.0, True)]:
        now[0] = moment
        assert watch.is_dead(1, here, 0) == is_dead


def test_a_heart_beats_for_what_is_in_training() -> None:
    given: list[int] = []
    heart = Heart(lambda trial, beat: given.append(trial), 0.02)
    heart.begin(1)
    heart.begin(2)
    _wait(lambda: {1, 2} <= set(given))
    heart.end(1)
    time.sleep(0.05)
    given.clear()
    _wait(lambda: len(given) > 2)
    assert set(given) == {2}
    heart.stop()
    assert not any(thread.name == "kdhooks-heart" for thread in threading.enumerate())


def test_a_heart_goes_on_when_the_storage_is_away(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    def give(trial: int, beat: int) -> None:
        calls.append(beat)
        if beat < 4:
            raise OSError("no such host")

    heart = Heart(give, 0.01)
    heart.begin(1)
    _wait(lambda: len(calls) > 5)
    heart.stop()
    assert caplog.messages == ["a sign of life could not be given to the study: OSError"]


def test_a_forgotten_study_gives_no_signs_of_life() -> None:
    study = Study(DistillationConf(), space=space(), settings=settings(heartbeat=0.01))
    assert study.propose() is not None
    assert any(thread.name == "kdhooks-heart" for thread in threading.enumerate())
    del study
    _wait(lambda: not any(thread.name == "kdhooks-heart" for thread in threading.enumerate()))


def _wait(condition: Any) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


class Elsewhere:
    """A worker on another machine that takes tickets by hand, and gives no sign of life."""

    def __init__(self, study: Study) -> None:
        self.book = study._book

    def ticket(self) -> int:
        return self.book.take_ticket({**ELSEWHERE, "heartbeat": 0.05})


def test_the_claim_of_a_dead_worker_is_taken_up_under_its_number(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "kdhooks")
    with Study(DistillationConf(), space=space(), settings=settings(max_trials=4)) as study:
        wanted = searched("Random", 4)
        other = Elsewhere(study)
        other.book.claim(other.ticket(), 0, wanted[0].arch)
        done = work(study)
        assert plain(study.candidates()) == plain(wanted)
        assert [one.number for one in done] == [1, 2, 3, 0], "who seems to live is left alone until the end"
    host = shown(ELSEWHERE)
    assert caplog.messages == [
        f"waiting for the last candidates of other workers: {host}",
        f"the worker {host} died with candidate 0",
        "candidate 0 is taken up again",
    ]


def test_a_worker_that_died_while_it_chose_leaves_no_candidate() -> None:
    with Study(DistillationConf(), space=space(), settings=settings(max_trials=3)) as study:
        Elsewhere(study).ticket()
        assert [one.number for one in work(study)] == [0, 1, 2]
        assert plain(study.candidates()) == plain(searched("Random", 3))


def test_a_record_of_a_dead_worker_counts() -> None:
    """It died between the record and the end of the trial."""
    with Study(DistillationConf(), space=space(), settings=settings(max_trials=3)) as study:
        wanted = searched("Random", 3)
        other = Elsewhere(study)
        trial_id = other.ticket()
        other.book.claim(trial_id, 0, wanted[0].arch)
        storage, ended = study._book.storage, study._book.storage.set_trial_state_values
        storage.set_trial_state_values = lambda *arguments: None
        other.book.finish(trial_id, wanted[0], None)
        storage.set_trial_state_values = ended
        assert [one.number for one in work(study)] == [1, 2]
        assert plain(study.candidates()) == plain(wanted)


def test_a_worker_that_was_taken_for_dead(caplog: pytest.LogCaptureFixture) -> None:
    """Its laptop slept: another one has its candidate, and its own result is not counted twice."""
    with Study(DistillationConf(), space=space(), settings=settings(max_trials=1)) as study:
        proposal = study.propose()
        assert proposal is not None
        study._claims.end(study._book.entries()[0])
        other = Elsewhere(study)
        trial_id = other.ticket()
        other.book.claim(trial_id, 0, proposal.arch)
        study.finish(proposal, trained(proposal))
        assert [one.state for one in study.candidates()] == ["running"]
        assert other.book.finish(trial_id, Candidate(0, proposal.arch, "complete", {"accuracy": 0.5}), [0.5])
        assert [one.state for one in study.candidates()] == ["complete"]
    assert caplog.messages == [
        "candidate 0 was given to another worker, which took this one for dead; its result is dropped"
    ]


def test_a_candidate_that_kills_every_worker_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims_module, "DEATHS", 3)
    monkeypatch.setattr("kdhooks.search.studies.study.DEATHS", 3)
    with Study(DistillationConf(), space=space(), settings=settings(max_trials=2)) as study:
        other, arch = Elsewhere(study), searched("Random", 1)[0].arch
        for _ in range(3):
            trial_id = other.ticket()
            other.book.claim(trial_id, 0, arch)
            study._claims.end(study._book.entry(trial_id))
        assert [one.number for one in work(study)] == [1]
        first = study.candidates()[0]
        assert (first.state, first.reason) == ("failed", "3 workers died while they trained it")


def test_tickets_are_called_in_their_order(tmp_path: Path) -> None:
    """A later ticket waits until an earlier one has its claim."""
    url = f"journal:{tmp_path}/study.log"
    with Study(DistillationConf(), space=space(), settings=settings(storage=url)) as study:
        other = Elsewhere(study)
        trial_id = study._book.take_ticket({**ELSEWHERE, "heartbeat": 100.0})
        proposals: list[Any] = []
        waiting = threading.Thread(target=lambda: proposals.append(study.propose()))
        waiting.start()
        waiting.join(0.3)
        assert waiting.is_alive() and not proposals
        other.book.claim(trial_id, 0, searched("Random", 1)[0].arch)
        waiting.join(5)
        assert [one.number for one in proposals] == [1]
        study.finish(proposals[0], Candidate(1, {}, "failed", reason="no"))
