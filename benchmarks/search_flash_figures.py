"""What the runs of `benchmarks.search_flash` say: accuracies, and ranks beside those of a long training.

Rules: the two short ways are compared over the seeds that all candidates have in both, so every comparison is paired; a
long training is there to rank candidates, and may have fewer seeds. The error of an accuracy is over the seeds (with
few images over the candidates too); that of a correlation is over the candidates, by the bootstrap, since another set
of candidates is what would change it most.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from scipy.stats import kendalltau, spearmanr

from benchmarks.results_store import Store
from benchmarks.search_cnn import BATCH, SPACE, candidates
from benchmarks.search_flash import CONTROLS, PLANS, WAYS, Run
from kdhooks.demo import mean_and_error

Scores = dict[str, list[list[float]]]
"""By way: for each candidate its accuracies, seed by seed."""

DRAWS = 1000


@dataclass(frozen=True)
class Way:
    """One row of the table."""

    accuracy: str
    spearman: str
    kendall: str
    spearman_seeds: str
    kendall_seeds: str
    seconds: float


@dataclass(frozen=True)
class Comparison:
    """One table.

    Attributes:
        plan: its name.
        seeds: of the two short ways, that all candidates have.
        long_seeds: of the long training.
        batch: rows of a batch.
        teacher: in words.
        names: of the dimensions.
        ways: rows by way.
        differences: distilled minus alone, in words.
        more: by plans that have it: errors over candidates, intervals of correlations, and the cost, in words.
        candidates: points, and a cell for each way.
    """

    plan: str
    seeds: int
    long_seeds: int
    batch: int
    teacher: str
    names: tuple[str, ...]
    ways: Mapping[str, Way]
    differences: str
    more: str
    candidates: Sequence[tuple[tuple[int, ...], list[str]]]


def spearman(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Spearman's rank correlation."""
    return float(spearmanr(ours, theirs).statistic)


def kendall(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Kendall's, variant b."""
    return float(kendalltau(ours, theirs).statistic)


def scores_of(store: Store, plan: str) -> tuple[Scores, dict[str, list[float]], list[Mapping[str, Any]]]:
    """Accuracies and seconds by way, and the candidates that all seeds of all ways have."""
    archs, scores, seconds = [], {way: [] for way in WAYS}, {way: [] for way in WAYS}
    runs = {
        (way, index): store.runs(Run(plan, way, arch, 0).key) for way in WAYS for index, arch in enumerate(candidates())
    }
    present = [index for index in range(len(candidates())) if all(runs[way, index] for way in WAYS)]
    shared = {way: set.intersection(*(set(runs[way, index]) for index in present)) for way in WAYS if present}
    for index in present:
        archs.append(candidates()[index])
        for way in WAYS:
            seeds = shared["long"] if way == "long" else shared["alone"] & shared["distilled"]
            mine = [runs[way, index][seed] for seed in sorted(seeds)]
            scores[way].append([run["score"] for run in mine])
            seconds[way].append(statistics.fmean(run["seconds"] for run in mine))
    return scores, seconds, archs


def compare(store: Store, plan: str) -> Comparison | None:
    """The table of a plan, or None where fewer than three candidates are done."""
    scores, seconds, archs = scores_of(store, plan)
    if len(archs) < 3 or not scores["alone"][0] or not scores["long"][0]:
        return None
    ways = {way: _way(scores, way, statistics.fmean(seconds[way])) for way in WAYS}
    cells = [[f"{statistics.fmean(scores[way][index]):.2f}" for way in WAYS] for index in range(len(archs))]
    points = [tuple(int(arch[name]) for name in SPACE) for arch in archs]
    taught = store.latest(PLANS[plan].teacher_name, 0)
    return Comparison(
        plan=plan,
        seeds=len(scores["alone"][0]),
        long_seeds=len(scores["long"][0]),
        batch=BATCH,
        teacher=f"{taught['score']:.2f}% on the test images" if taught else "accuracy unknown",
        names=tuple(SPACE),
        ways=ways,
        differences=_differences(scores),
        more=_more(store, plan, scores, archs) if PLANS[plan].setting else "",
        candidates=list(zip(points, cells, strict=True)),
    )


def _way(scores: Scores, way: str, seconds: float) -> Way:
    seeds = range(len(scores[way][0]))
    by_seed = [statistics.fmean(one[seed] for one in scores[way]) for seed in seeds]
    accuracy = mean_and_error(by_seed) if len(by_seed) > 1 else f"{by_seed[0]:.2f}"
    if way == "long":
        return Way(accuracy, "", "", "", "", seconds)
    long = means(scores["long"])
    cells = []
    for correlation in (spearman, kendall):
        cells.append(f"{correlation(means(scores[way]), long):.3f}")
    for correlation in (spearman, kendall):
        cells.append(mean_and_error([correlation([one[seed] for one in scores[way]], long) for seed in seeds]))
    return Way(accuracy, *cells, seconds)


def means(scores: Sequence[Sequence[float]]) -> list[float]:
    """Of each candidate over its seeds."""
    return [statistics.fmean(one) for one in scores]


def signed(values: Sequence[float]) -> str:
    """Mean and standard error, with a sign."""
    text = mean_and_error(values)
    return text if text.startswith("-") else f"+{text}"


def _differences(scores: Scores) -> str:
    """Distilled minus alone: accuracies over seeds, correlations over candidates."""
    seeds = range(len(scores["alone"][0]))
    gains = [
        statistics.fmean(
            ours[seed] - theirs[seed] for ours, theirs in zip(scores["distilled"], scores["alone"], strict=True)
        )
        for seed in seeds
    ]
    better = sum(o > a for o, a in zip(means(scores["distilled"]), means(scores["alone"]), strict=True))
    parts = [f"Distilled minus alone: accuracy {signed(gains)}, better for {better} of {len(scores['long'])}"]
    for name, correlation in (("Spearman", spearman), ("Kendall", kendall)):
        nearer = partial(gain, correlation=correlation)
        low, high = interval(scores, nearer)
        middle = nearer(scores, range(len(scores["long"])))
        parts.append(f"{name} {middle:+.3f} (95% over candidates: {low:+.3f} to {high:+.3f})")
    return "; ".join(parts) + "."


def _more(store: Store, plan: str, scores: Scores, archs: Sequence[Mapping[str, Any]]) -> str:
    """The difference over candidates, each way's intervals, and what processor time distilling takes."""
    gains = [o - a for o, a in zip(means(scores["distilled"]), means(scores["alone"]), strict=True)]
    parts = [f"The accuracy's difference over the {len(gains)} candidates: {signed(gains)}"]
    for name, correlation in (("Spearman", spearman), ("Kendall", kendall)):
        texts = []
        for way in ("alone", "distilled"):
            low, high = interval(scores, partial(agreement, correlation=correlation, way=way))
            texts.append(f"{way} {low:.3f} to {high:.3f}")
        parts.append(f"{name}, 95% over candidates: {', '.join(texts)}")
    seeds = range(len(scores["alone"][0]))
    long = means(scores["long"])
    for name, correlation in (("Spearman", spearman), ("Kendall", kendall)):
        nearer = [
            correlation([one[at] for one in scores["distilled"]], long)
            - correlation([one[at] for one in scores["alone"]], long)
            for at in seeds
        ]
        parts.append(f"{name} of a seed, distilled minus alone: {signed(nearer)}")
    spent = {way: _processor(store, plan, way, archs) for way in WAYS}
    ratio = spent["distilled"] / spent["alone"]
    each = ", ".join(f"{way} {value:.1f} s" for way, value in spent.items())
    parts.append(f"processor time of a candidate: {each}; distilled / alone {ratio:.2f}")
    return "; ".join(parts) + "." + _control(store, plan, scores, archs)


def _processor(store: Store, plan: str, way: str, archs: Sequence[Mapping[str, Any]]) -> float:
    """Seconds of processor time of a candidate, over the seeds that all have."""
    runs = [store.runs(Run(plan, way, arch, 0).key) for arch in archs]
    seeds = set.intersection(*(set(one) for one in runs))
    return statistics.fmean(one[seed]["cpu"] for one in runs for seed in seeds)


def _control(store: Store, plan: str, scores: Scores, archs: Sequence[Mapping[str, Any]]) -> str:
    """Distilled minus a training alone that takes as much time, over the seeds that both have."""
    name = CONTROLS.get(plan)
    if name is None:
        return ""
    runs = [store.runs(Run(name, "alone", arch, 0).key) for arch in archs]
    taught = [store.runs(Run(plan, "distilled", arch, 0).key) for arch in archs]
    seeds = sorted(set.intersection(*(set(one) for one in (*runs, *taught))))
    if len(seeds) < 2:
        return ""
    theirs, ours = ([[one[seed]["score"] for seed in seeds] for one in some] for some in (runs, taught))
    gains = [statistics.fmean(o[at] - t[at] for o, t in zip(ours, theirs, strict=True)) for at in range(len(seeds))]
    long = means(scores["long"])
    cells = ", ".join(
        f"{word} {correlation(means(theirs), long):.3f} (distilled: {correlation(means(ours), long):.3f})"
        for word, correlation in (("Spearman", spearman), ("Kendall", kendall))
    )
    by_seed = [statistics.fmean(one[at] for one in theirs) for at in range(len(seeds))]
    spent = statistics.fmean(one[seed]["cpu"] for one in runs for seed in seeds)
    return (
        f" Alone with {PLANS[name].steps:,} steps ({spent:.1f} s), {len(seeds)} seeds: accuracy "
        f"{mean_and_error(by_seed)}, distilled minus it {signed(gains)}; {cells}."
    )


Statistic = Callable[[Scores, Sequence[int]], float]
Correlation = Callable[[Sequence[float], Sequence[float]], float]


def agreement(scores: Scores, chosen: Sequence[int], *, correlation: Correlation, way: str) -> float:
    """How near the ranks of a way are to those of long training, among the chosen candidates."""
    ours, long = ([means(scores[one])[index] for index in chosen] for one in (way, "long"))
    return correlation(ours, long)


def gain(scores: Scores, chosen: Sequence[int], *, correlation: Correlation) -> float:
    """By how much the ranks of distilled candidates are nearer to those of long training."""
    ours, theirs = (agreement(scores, chosen, correlation=correlation, way=way) for way in ("distilled", "alone"))
    return ours - theirs


def interval(scores: Scores, statistic: Statistic) -> tuple[float, float]:
    """95% of a statistic over sets of candidates drawn with replacement."""
    chance, count = random.Random(0), len(scores["long"])
    drawn = []
    while len(drawn) < DRAWS:
        chosen = chance.choices(range(count), k=count)
        if len(set(chosen)) > 2:
            drawn.append(statistic(scores, chosen))
    drawn.sort()
    return drawn[round(0.025 * DRAWS)], drawn[round(0.975 * DRAWS) - 1]
