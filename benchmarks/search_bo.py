"""How many trials a search needs in the table of `benchmarks.search_digits`, beside random search.

    python -m benchmarks.search_bo [--seeds 20] [--only BO Random TPE CMA-ES] [--again]

A study of kdhooks proposes, the score is looked up, nothing is trained. A run ends with the first candidate whose score
is at most 0.5 points under the best one of the table. Random search never proposes a candidate twice, so its trials are
also known exactly: with K good candidates of N, no draw of t candidates has a good one with the probability
C(N - K, t) / C(N, t). Runs are kept in benchmarks/figures/search_bo.json, so an interrupted command goes on where it
stopped, and docs/results_search.md is written anew after each algorithm.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import accumulate
from math import comb
from pathlib import Path
from typing import Any

from benchmarks.results_store import Store
from benchmarks.search_digits import NEAR, SPACE, TABLE, key, near_best, read
from kdhooks import DistillationConf
from kdhooks.config.search_settings import Algorithm, Choices, SearchSettings
from kdhooks.search.candidates import Candidate
from kdhooks.search.proposals.space import Space
from kdhooks.search.studies.study import Study

FIGURES = Path(__file__).with_name("figures") / "search_bo.json"
STARTUP, MOST = 10, 300
ALGORITHMS: tuple[Algorithm, ...] = ("Random", "BO", "TPE", "CMA-ES")
MARKS = (10, 20, 40, 80)
"""Trials after which the best score so far is kept as well."""


def search(algorithm: Algorithm, seed: int, rows: Sequence[Mapping[str, Any]], most: int = MOST) -> dict[str, Any]:
    """One search in the table.

    Args:
        algorithm: of `SearchSettings`.
        seed: of the proposals.
        rows: the table.
        most: trials after which it ends without success; the whole table for random search.

    Returns:
        ``trials`` until a good candidate was proposed, ``found`` whether one was, the best score ``after`` some
        numbers of trials, and the ``seconds`` that a proposal and its record took.
    """
    scores, good = {key(row): row["score"] for row in rows}, {key(row) for row in near_best(rows)}
    most = len(rows) if algorithm == "Random" else most
    settings = SearchSettings(
        search_space=tuple(Choices(name, values) for name, values in SPACE.items()),
        search_algorithm=algorithm,
        max_trials=most,
        seed=seed,
        storage="memory",
        startup_trials=None if algorithm == "Random" else STARTUP,
    )
    study = Study(DistillationConf({}), space=Space(settings.search_space, ()), settings=settings)
    seen: list[float] = []
    began, found = time.perf_counter(), False
    while not found and (proposal := study.propose()) is not None:
        point = key(proposal.arch)
        seen.append(scores[point])
        study.finish(proposal, Candidate(proposal.number, proposal.arch, "complete", {"accuracy": scores[point]}))
        found = point in good
    study.close()
    best = list(accumulate(seen, max))
    return {
        "trials": len(seen),
        "found": found,
        "after": {str(mark): best[min(mark, len(best)) - 1] for mark in MARKS},
        "seconds": round((time.perf_counter() - began) / len(seen), 4),
    }


def exact(count: int, good: int, share: float) -> int:
    """The smallest number of random trials without replacement that reach a good candidate with this probability."""
    return next(t for t in range(1, count + 1) if 1 - comb(count - good, t) / comb(count, t) >= share)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def median_interval(values: Sequence[float], draws: int = 10_000) -> tuple[float, float]:
    """The 95% interval of the median, by the bootstrap over seeds."""
    chance = random.Random(0)
    medians = sorted(statistics.median(chance.choices(values, k=len(values))) for _ in range(draws))
    return medians[round(0.025 * draws)], medians[round(0.975 * draws) - 1]


def describe(algorithm: str, rows: Sequence[Mapping[str, Any]]) -> str:
    """All that decides a run but its seed and the program."""
    startup = "" if algorithm == "Random" else f", {STARTUP} random first"
    best = near_best(rows)
    return f"{algorithm}{startup}: {len(best)} of {len(rows)} candidates within {NEAR} points of {best[0]['score']}"


def main() -> None:
    from benchmarks.search_page import Sources, write

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=ALGORITHMS, choices=ALGORITHMS)
    parser.add_argument("--again", action="store_true", help="do not take runs that are kept")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--figures", type=Path, default=FIGURES)
    parser.add_argument("--page", type=Path, default=Path("docs/results_search.md"))
    options = parser.parse_args()
    rows, store = read(options.table), Store(options.figures)
    for algorithm in options.only:
        description = describe(algorithm, rows)
        for seed in range(options.seeds):
            if options.again or store.get(algorithm, seed, description) is None:
                store.add(algorithm, seed, description, search(algorithm, seed, rows))
        trials = [run["trials"] for run in store.runs(algorithm).values()]
        low, middle, high = quartiles(trials)
        print(f"{time.strftime('%H:%M:%S')} {algorithm}: {middle:g} ({low:g} to {high:g})", flush=True)
        write(options.page, Sources(options.table, options.figures))


if __name__ == "__main__":
    main()
