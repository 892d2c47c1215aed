"""Writes docs/results_search.md from the table of digits and the runs that are kept: no number comes from elsewhere.

    python -m benchmarks.search_page

What people wrote stands between the markers ``<!-- written NAME -->`` and ``<!-- end -->``, and is carried over.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from benchmarks import search_bo, search_flash
from benchmarks.machine import processor
from benchmarks.results_page import block, table, written
from benchmarks.results_store import Store
from benchmarks.search_cnn import Plan
from benchmarks.search_digits import NEAR, SPACE, TABLE, near_best, read
from benchmarks.search_flash_figures import Comparison, compare
from kdhooks.demo import mean_and_error

TITLES = {"blocks": "each block by itself", "guided": "the whole network, with labels, in every stage"}
TITLES["few"] = f"few images, a better teacher, {TITLES['blocks']}"
TITLES["few-300"] = f"{TITLES['few']}, fewer steps"
PAGE = Path("docs/results_search.md")
NOTES = ("found", "digits", "bo", *(f"flash-{plan}" for plan in search_flash.PLANS), "tried")
HEAD = """# Searching for a student

Commands: `python -m benchmarks.search_digits` (a space trained to the end: `benchmarks/search_digits.csv`),
`python -m benchmarks.search_bo` (searches in it), `python -m benchmarks.search_flash` (a short distillation beside a
short training). Machine: {processor}, one thread, others at work beside it; Python {python}, torch {torch}.
"""


@dataclass(frozen=True)
class Sources:
    """Where the figures are, and what was planned for those of flash distillation."""

    table: Path = TABLE
    bo: Path = search_bo.FIGURES
    flash: Path = search_flash.FIGURES
    plans: Mapping[str, Plan] = field(default_factory=lambda: search_flash.PLANS)


def write(page: Path = PAGE, sources: Sources = Sources()) -> None:
    """Write the page from what is there so far."""
    notes = dict.fromkeys(NOTES, "") | written(page)
    page.parent.mkdir(parents=True, exist_ok=True)
    rows = read(sources.table)
    top = HEAD.format(processor=processor(), python=platform.python_version(), torch=torch.__version__)
    parts = [top, block("found", notes)]
    if rows:
        parts += [*_digits(rows, sources.table), block("digits", notes)]
        parts += [*_searches(rows, Store(sources.bo)), block("bo", notes)]
    for plan, settings in sources.plans.items():
        found = compare(Store(sources.flash), plan)
        parts += [*_flash(found, settings), block(f"flash-{plan}", notes)] if found else []
    page.write_text("\n".join([*parts, "## What was tried\n", block("tried", notes)]), encoding="utf-8")


def _digits(rows: Sequence[Mapping[str, float]], path: Path) -> list[str]:
    near = near_best(rows)
    low, middle, high = search_bo.quartiles([row["score"] for row in rows])
    made = path.read_text(encoding="utf-8").splitlines()[0].removeprefix("# ")
    best = [
        [*(f"{row[name]:g}" for name in SPACE), f"{row['score']:.2f} ± {row['error']:.2f}"]
        for row in sorted(rows, key=lambda row: -row["score"])[: max(8, len(near))]
    ]
    marginal = [
        [name, "; ".join(f"{value:g}: {_mean_at(rows, name, value):.1f}" for value in SPACE[name])] for name in SPACE
    ]
    return [
        f"## Digits: all {len(rows)} candidates of a space\n",
        f"{made}. It took {sum(row['seconds'] for row in rows) / 60:.0f} minutes of one core.\n",
        f"Scores: best {near[0]['score']:.2f}, quartiles {low:.2f}, {middle:.2f}, {high:.2f}, "
        f"lowest {min(row['score'] for row in rows):.2f}. Within {NEAR} points of the best: {len(near)} of "
        f"{len(rows)}, {100 * len(near) / len(rows):.2f}%. The best ones:\n",
        table([[*SPACE, "accuracy"], *best]),
        "Mean accuracy at each value of a dimension:\n",
        table([["dimension", "value: mean"], *marginal]),
    ]


def _mean_at(rows: Sequence[Mapping[str, float]], name: str, value: float) -> float:
    return statistics.fmean(row["score"] for row in rows if row[name] == value)


def _searches(rows: Sequence[Mapping[str, float]], store: Store) -> list[str]:
    good, marks = len(near_best(rows)), search_bo.MARKS
    exact = [search_bo.exact(len(rows), good, share) for share in (0.5, 0.25, 0.75)]
    head = ["", "trials, median", "quartiles", "95% of the median", "of random's"]
    lines = [
        [*head, *(f"best after {mark}" for mark in marks), "s a trial", "seeds"],
        ["random, exactly", f"{exact[0]}", f"{exact[1]} to {exact[2]}", "", "", *[""] * len(marks), "", ""],
    ]
    for algorithm in search_bo.ALGORITHMS:
        runs = list(store.runs(algorithm).values())
        if len(runs) < 2:
            continue
        trials = [run["trials"] for run in runs]
        low, middle, high = search_bo.quartiles(trials)
        interval = search_bo.median_interval(trials)
        missed = sum(not run["found"] for run in runs)
        lines.append(
            [algorithm, f"{middle:g}", f"{low:g} to {high:g}", f"{interval[0]:g} to {interval[1]:g}"]
            + [f"{middle / exact[0]:.2f}"]
            + [mean_and_error([run["after"][str(mark)] for run in runs]) for mark in marks]
            + [f"{statistics.fmean(run['seconds'] for run in runs):.3f}"]
            + [f"{len(runs)}" + (f", {missed} without success" if missed else "")]
        )
    return [
        "## Trials until a candidate within half a point of the best\n",
        f"Nothing is trained here: scores are looked up. {search_bo.STARTUP} random candidates come first (but for "
        f"random search); a search without success ends after {search_bo.MOST} trials. No candidate comes twice. "
        "The interval is a bootstrap over the seeds; scores after so many trials are means ± standard errors.\n",
        table(lines),
    ]


def _flash(found: Comparison, plan: Plan) -> list[str]:
    share = ", ".join(str(steps) for steps in (plan.flash, plan.flash, plan.steps - 2 * plan.flash))
    lines = [["", "steps", "accuracy", "Spearman", "Kendall", "Spearman, a seed", "Kendall, a seed", "s a candidate"]]
    for way in search_flash.WAYS:
        one = found.ways[way]
        steps = search_flash.Run(found.plan, way, {}, 0).length(plan)[0]
        lines.append([way, str(steps), one.accuracy, one.spearman, one.kendall, one.spearman_seeds, one.kendall_seeds])
        lines[-1].append(f"{one.seconds:.1f}")
    wide = "" if plan.teacher_width == 8 else f" from {plan.teacher_width} channels on"
    images = f"{plan.images:,} images"
    if plan.setting:
        images += f" that a seed draws from all (long: the first {plan.long_images:,})"
    archs = [[*(str(value) for value in arch), *scores] for arch, scores in found.candidates]
    return [
        f"## FashionMNIST: flash and regular distillation, or alone ({TITLES[found.plan]})\n",
        f"{len(archs)} candidates, {found.seeds} seeds (long: {found.long_seeds}), {images}, batches of "
        f"{found.batch}; flash and regular distillation take {share} steps. "
        f"The teacher is a ResNet-8{wide} ({found.teacher}).\n",
        table(lines),
        f"{found.differences}{' ' * bool(found.more)}{found.more}\n",
        table([[*found.names, *search_flash.WAYS], *archs]),
    ]


if __name__ == "__main__":
    write()
