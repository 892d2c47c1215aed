"""The pictures of docs/results_domains.md."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from benchmarks import domain_digits, domain_scanners


def draw_curves(
    path: Path, title: str, rows: Mapping[str, Mapping[int, Any]], along: str, *, what: str = "test accuracy (%)"
) -> None:
    """One line a row: the mean over its seeds, with the standard error around it.

    Args:
        path: of the PNG.
        title: of the picture.
        rows: for every row its runs by seed; each has a ``curve``.
        along: what its points are.
        what: they measure.
    """
    figure = Figure(figsize=(7, 4.6), layout="constrained")
    axis = figure.subplots()
    for name, runs in rows.items():
        columns = list(zip(*(run["curve"] for run in runs.values()), strict=True))
        means = [statistics.fmean(column) for column in columns]
        errors = [statistics.stdev(column) / len(column) ** 0.5 if len(column) > 1 else 0.0 for column in columns]
        places = range(1, len(means) + 1)
        (line,) = axis.plot(places, means, label=name, marker="o" if len(means) < 20 else None, markersize=3)
        low, high = ([m + sign * e for m, e in zip(means, errors, strict=True)] for sign in (-1, 1))
        axis.fill_between(places, low, high, color=line.get_color(), alpha=0.2, linewidth=0)
    axis.set(xlabel=along, ylabel=what)
    axis.set_title(title, fontsize=11)
    axis.grid(alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    figure.savefig(path, dpi=130)


def draw_images(path: Path, count: int = 10) -> None:
    """A row of images for each domain of both comparisons: digits in order, and the same shapes for both scanners."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots(4, count)
    for line, name in enumerate(domain_digits.DATA):
        x, y = domain_digits.load(name, False)
        for digit in range(count):
            _show(axes[line, digit], x[y == digit % 10][0, 0].numpy(), name if digit == 0 else "")
    for line, scanner in enumerate("ab", 2):
        x, _ = domain_scanners.load(scanner, False)
        for row in range(count):
            _show(axes[line, row], x[row, 0].numpy(), f"scanner {scanner}" if row == 0 else "")
    figure.savefig(path, dpi=110)


def _show(axis: Any, image: Any, name: str) -> None:
    axis.imshow(image, cmap="gray", vmin=0, vmax=1)
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_ylabel(name, fontsize=8)
