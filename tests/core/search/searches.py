"""A small search with a made-up score, and workers at it in processes of their own.

Run as a program it is one worker: ``python -m tests.core.search.searches URL ALGORITHM TRIALS SECONDS [DEATH]``.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kdhooks.config import DistillationConf
from kdhooks.config.search_settings import Choices, Limit, Range, Relation, SearchSettings, When
from kdhooks.search.candidates import Candidate
from kdhooks.search.proposals.space import Space
from kdhooks.search.studies.study import Proposal, Study

ROOT = Path(__file__).resolve().parents[3]
ALGORITHMS = ("Grid", "Random", "BO", "TPE", "CMA-ES", "NSGA-II")
HEARTBEAT = 0.5


def space() -> Space:
    """170 architectures: one parameter has a condition, and a relation leaves some out."""
    return Space(
        [
            Choices("width", (8, 16, 32, 64, 128, 256)),
            Range("depth", 1, 6),
            Choices("block", ("conv", "dense", "mix")),
            Choices("kernel", (3, 5, 7), (When("block", ("conv",)),)),
        ],
        [Relation("width * depth", "<=", "1024", "width * depth <= 1024")],
    )


def settings(algorithm: str = "Random", **changes: Any) -> SearchSettings:
    given: dict[str, Any] = {"search_algorithm": algorithm, "storage": "memory", "max_trials": None, "seed": 7}
    return SearchSettings(**{**given, **changes})


def score(arch: Mapping[str, Any]) -> float:
    """Best, 1, for a width of 64, a depth of 4 and a convolution with a kernel of 5."""
    width = Choices("", (8, 16, 32, 64, 128, 256)).values.index(arch["width"])
    block = {"conv": 0.0, "dense": 0.1, "mix": 0.2}[arch["block"]]
    kernel = 0.03 * abs(arch.get("kernel", 5) - 5)
    return round(1.0 - 0.03 * (width - 3) ** 2 - 0.02 * (arch["depth"] - 4) ** 2 - block - kernel, 6)


def trained(proposal: Proposal) -> Candidate:
    """What training would give: wide ones with mixed blocks fail, and the very wide ones are too large."""
    arch = proposal.arch
    if arch["block"] == "mix" and arch["width"] >= 128:
        return Candidate(proposal.number, arch, "failed", reason="RuntimeError: out of memory")
    size = float(arch["width"] * arch["depth"])
    if size > 800:
        return Candidate(proposal.number, arch, "infeasible", {"parameters": size}, reason="too large")
    return Candidate(proposal.number, arch, "complete", {"accuracy": score(arch), "parameters": size})


LIMIT = Limit("parameters", at_most=True, bound=800.0, text="parameters <= 800")


def work(study: Study, seconds: float = 0.0, most: int | None = None) -> list[Candidate]:
    """Train what the study proposes, and at most so many."""
    done: list[Candidate] = []
    while most is None or len(done) < most:
        proposal = study.propose()
        if proposal is None:
            break
        time.sleep(seconds)
        done.append(study.finish(proposal, trained(proposal)))
    return done


def searched(algorithm: str, most: int, **changes: Any) -> list[Candidate]:
    """The candidates of a search from its beginning."""
    with Study(DistillationConf(), space=space(), settings=settings(algorithm, max_trials=most, **changes)) as study:
        work(study)
        return study.candidates()


def plain(candidates: list[Candidate]) -> list[tuple[int, str, str, dict[str, float]]]:
    """What must be the same in two runs."""
    return [(one.number, json.dumps(dict(one.arch)), one.state, dict(one.metrics)) for one in candidates]


def start(url: str, algorithm: str, trials: int, seconds: float, death: str = "") -> subprocess.Popen[str]:
    """A worker in a process of its own; it says ready, and begins when it is told to."""
    words = [sys.executable, "-m", "tests.core.search.searches", url, algorithm, str(trials), str(seconds), death]
    return subprocess.Popen(
        words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def begin(process: subprocess.Popen[str]) -> None:
    """Wait until a worker is ready, and let it begin."""
    assert process.stdout is not None and process.stdin is not None and process.stderr is not None
    line = process.stdout.readline()
    assert line == "ready\n", line + process.stderr.read()
    process.stdin.write("go\n")
    process.stdin.flush()


def end(process: subprocess.Popen[str]) -> dict[str, Any]:
    """What a worker says at its end."""
    out, err = process.communicate()
    assert process.returncode == 0, err
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    return told


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _deadly(study: Study, death: str) -> None:
    """Let this process be killed at a certain moment: while it chooses, trains, or finishes its third candidate."""
    number = {"count": 0}

    def third(action: Callable[..., Any], after: bool = False) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            number["count"] += 1
            if number["count"] == 3 and not after:
                _die()
            result = action(*arguments)
            if number["count"] == 3:
                _die()
            return result

        return counted

    book: Any = study._book
    if death == "choosing":
        study.advisor.propose = third(study.advisor.propose)  # type: ignore[method-assign]
    elif death == "training":
        book.claim = third(book.claim, after=True)
    elif death == "finishing":  # between the record and the state
        storage, write = book.storage, book.storage.set_trial_state_values
        storage.set_trial_state_values = third(write)


def main() -> None:
    """One worker."""
    url, algorithm, trials, seconds, death = sys.argv[1:]
    chosen = settings(algorithm, storage=url, max_trials=int(trials), heartbeat=HEARTBEAT, limits=(LIMIT,))
    import optuna  # noqa: F401  # what is imported once is no overhead of a trial

    print("ready", flush=True)
    sys.stdin.readline()
    with Study(DistillationConf(), space=space(), settings=chosen) as study:
        _deadly(study, death)
        begin = finished = time.time()
        overheads, processor, numbers = list[float](), list[float](), list[int]()
        while True:
            asked, used = time.perf_counter(), time.process_time()
            proposal = study.propose()
            if proposal is None:
                break
            overhead = time.perf_counter() - asked
            time.sleep(float(seconds))
            candidate, asked = trained(proposal), time.perf_counter()
            study.finish(proposal, candidate)
            overheads.append(overhead + time.perf_counter() - asked)
            processor.append(time.process_time() - used)
            numbers.append(proposal.number)
            finished = time.time()
    told = {"begin": begin, "end": finished, "numbers": numbers, "overheads": overheads, "processor": processor}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
