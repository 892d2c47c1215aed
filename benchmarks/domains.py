"""Domain adaptation and weight transfer, measured: digits of two data sets, scans of two scanners, few labels.

Every row has five seeds, and a seed means the same initial weights and the same order of the source's images in every
row, so differences are paired. Hyper-parameters were chosen with ``--search``, on a seed that no row has. Runs are
kept in ``.kdhooks/domains``, one file each, and one that is there is not repeated, so an interrupted command goes on.
Nothing is downloaded.

Run: python -m benchmarks.domains [--only digits scanners transfer] [--rows PATTERN] [--minutes 6]
Then: python -m benchmarks.domains --only-page
"""

from __future__ import annotations

import argparse
import re
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from benchmarks import domain_digits, domain_scanners, domain_transfer
from benchmarks.domains_page import write
from benchmarks.domains_rows import ROWS, SEARCH, SEARCH_SEED, SEEDS
from benchmarks.domains_store import KEEP, find, put

KINDS: dict[str, ModuleType] = {
    "digits": domain_digits,
    "scanners": domain_scanners,
    "transfer": domain_transfer,
}


def say(text: str) -> None:
    """A line of progress."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def go(kind: str, name: str, recipe: Any, seed: int, keep: Path) -> None:
    """One run, unless it is there."""
    if find(kind, recipe, seed, keep) is not None:
        return
    found = KINDS[kind].run(recipe, seed)
    put(kind, name, recipe, seed, found, keep)
    say(f"{kind}: {name}, seed {seed}: {found['curve'][-1]:.2f}, {found['seconds']:.0f} s")


def few(recipe: Any) -> Any:
    """The same with next to no steps."""
    if isinstance(recipe, domain_transfer.Recipe):
        return recipe.but(epochs=2)
    changes = {"alone": min(recipe.alone, 10)} if isinstance(recipe, domain_digits.Recipe) else {}
    return recipe.but(steps=20, **changes)


def main() -> None:
    """Run what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=list(KINDS), choices=list(KINDS), metavar="KIND")
    parser.add_argument("--rows", default="", help="only rows whose name this pattern fits, from its beginning")
    parser.add_argument("--seeds", type=int, default=len(SEEDS), help="at most so many")
    parser.add_argument("--search", action="store_true", help="what was tried, with one other seed")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no run begins later than that")
    parser.add_argument("--quick", action="store_true", help="a few steps and one seed, to see that it works")
    parser.add_argument("--only-page", action="store_true", help="write the page from the runs that are there")
    parser.add_argument("--page", type=Path, help="docs/results_domains.md unless --quick")
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep = Path(".kdhooks/domains-quick") if options.quick else KEEP
    table, began = (SEARCH if options.search else ROWS), time.monotonic()
    seeds = [SEARCH_SEED] if options.search else list(SEEDS[: 1 if options.quick else options.seeds])
    todo = [
        (kind, name, few(recipe) if options.quick else recipe, seed)
        for seed in seeds
        for kind in options.only
        for name, recipe in table[kind].items()
        if re.match(options.rows, name)
    ]
    for one in [] if options.only_page else todo:
        if time.monotonic() - began < 60 * options.minutes:
            go(*one, keep)
    page = options.page or (keep / "page.md" if options.quick else Path("docs/results_domains.md"))
    if not options.search:
        write(page, keep, few if options.quick else lambda recipe: recipe)


if __name__ == "__main__":
    main()
