"""What a search costs beside its trials: proposing, claiming and recording a candidate, after 100 finished ones.

The space has five parameters, as that of MobileBERT, in the given storage. Figures are medians over the rounds, each
of which proposes and finishes one more candidate: seconds on the clock, and of the processor, which other programs on
the machine don't lengthen.

What is aimed for: below 2% of a trial of 30 s, which is 0.6 s.

Run: python -m benchmarks.search_overhead [--rounds 10] [--storage URL] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from kdhooks.config import DistillationConf
from kdhooks.config.search_settings import Algorithm, Choices, SearchSettings
from kdhooks.search.candidates import Candidate
from kdhooks.search.proposals.space import Space
from kdhooks.search.studies.study import Proposal, Study

ALGORITHMS: tuple[Algorithm, ...] = ("Grid", "Random", "BO", "TPE", "CMA-ES", "NSGA-II")
TRIAL = 30.0  # seconds
SPACE = Space(
    [
        Choices("hidden_size", (128, 246, 384, 512)),
        Choices("intra_bottleneck_size", (64, 96, 128, 160)),
        Choices("num_attention_heads", (1, 2, 4, 8)),
        Choices("intermediate_size", (384, 512, 640)),
        Choices("num_feedforward_networks", (2, 4, 6)),
    ]
)


def trained(proposal: Proposal, metrics: int) -> Candidate:
    """A score that is smooth in the architecture, with a little noise of its own."""
    noise = random.Random(proposal.seed).gauss(0, 0.01)
    score = sum(SPACE.axes[name].place(value) for name, value in proposal.arch.items()) / 5 + noise
    found = {"accuracy": score, "latency": 1.0 - score / 2 + noise}
    return Candidate(proposal.number, proposal.arch, "complete", dict(list(found.items())[:metrics]))


def measure(settings: SearchSettings, finished: int, rounds: int) -> tuple[float, float]:
    """Seconds of a round, on the clock and of the processor; the candidates before are drawn by chance."""
    count = len(settings.metrics)
    with Study(DistillationConf(), space=SPACE, settings=replace(settings, search_algorithm="Random")) as study:
        while len(study.candidates()) < finished and (proposal := study.propose()) is not None:
            study.finish(proposal, trained(proposal, count))
    clock, processor = [], []
    with Study(DistillationConf(), space=SPACE, settings=settings) as study:
        for _ in range(rounds + 1):
            begin, used = time.perf_counter(), time.process_time()
            proposal = study.propose()
            assert proposal is not None
            study.finish(proposal, trained(proposal, count))
            clock.append(time.perf_counter() - begin)
            processor.append(time.process_time() - used)
    return statistics.median(clock[1:]), statistics.median(processor[1:])  # the first one imports


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10, help="candidates that are timed")
    parser.add_argument("--finished", type=int, default=100, help="candidates before them")
    parser.add_argument("--storage", help="URL; a new SQLite file where it is not given")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    chosen = parser.parse_args()
    figures = {}
    print(f"{'algorithm':10} {'metrics':>7} {'seconds':>8} {'processor':>10} {'of a trial of 30 s':>19}")
    for algorithm in ALGORITHMS:
        for metrics in ({"accuracy": True}, {"accuracy": True, "latency": False}):
            if algorithm == "CMA-ES" and len(metrics) > 1:
                continue
            with tempfile.TemporaryDirectory() as folder:
                settings = SearchSettings(
                    search_algorithm=algorithm,
                    metrics=tuple(metrics),
                    higher_is_better=tuple(metrics.values()),
                    max_trials=None,
                    storage=chosen.storage or f"sqlite:///{folder}/study.db",
                    study_name=f"{algorithm} {len(metrics)}",
                )
                seconds, processor = measure(settings, chosen.finished, chosen.rounds)
            figures[f"{algorithm}, {len(metrics)} metrics"] = {"seconds": seconds, "processor": processor}
            print(f"{algorithm:10} {len(metrics):7} {seconds:8.3f} {processor:10.3f} {seconds / TRIAL:18.2%}")
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
