"""SST-2: three small students, alone and distilled from MiniLM, with and without sentences made by augmentation.

Every row runs with five seeds or more, and a seed means the same initial weights and the same order in every row that
sees the same sentences, so differences are paired. Hyper-parameters were chosen on dev with `--search`; a run's
weights are the best on dev of ten looks; test is met once a run. Runs are kept in ``.kdhooks/sst2/runs``, one
file each, and a run that is there is not repeated; a changed recipe is another run.

Run: python -m benchmarks.sst2 --data FOLDER [--rows BiLSTM] [--seeds 3] [--search] [--page docs/results_sst2.md]
"""

from __future__ import annotations

import argparse
import json
import logging
import re
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.sst2_page import page, reading_of
from benchmarks.sst2_rows import ROWS, SEARCH, SEEDS
from benchmarks.sst2_store import KEEP, SIZE, run_file
from examples.sentiment.preparation import Prepared, StoredTeacher, layers_of, once, prepare, store
from examples.sentiment.training import Recipe, Texts, accuracy, make, quiet, train


def say(text: str) -> None:
    """A line of progress."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


class Bench:
    """Runs recipes, each with a seed once."""

    def __init__(self, data: Path) -> None:
        self.prepared: Prepared = prepare(data, SIZE, keep=KEEP, watch=say)
        self._both: Texts | None = None
        self._hidden: StoredTeacher | None = None

    def texts(self, recipe: Recipe) -> Texts:
        """What a recipe's student sees."""
        return self.both if recipe.augment else self.prepared.train

    @property
    def both(self) -> Texts:
        """Training sentences and, after them, those without labels."""
        if self._both is None:
            self._both = self.prepared.both
        return self._both

    def hidden(self, recipe: Recipe) -> StoredTeacher | None:
        """The hidden states of all sentences that anyone trains on."""
        if not any(recipe.features):
            return None
        if self._hidden is None:
            tokens = self.both.tokens

            def states() -> list[torch.Tensor]:
                say("teacher: hidden states")
                return store(self.prepared.teacher, tokens, layers_of(self.prepared.teacher)).stored

            stored = once(KEEP / "hidden.pt", states)
            self._hidden = StoredTeacher(stored, tokens["attention_mask"].sum(1))
        return self._hidden

    def run(self, name: str, recipe: Recipe, seed: int, *, test: bool = True) -> dict[str, Any]:
        """One run, done now or found."""
        path = run_file(recipe, seed)
        found = json.loads(path.read_text()) if path.is_file() else {}
        if found and (not test or "test" in found):
            return dict(found)
        torch.manual_seed(seed)
        student = make(recipe, self.prepared.train, words=self.prepared.words, pieces=self.prepared.pieces)
        hidden = self.hidden(recipe)
        done = train(recipe, student, self.texts(recipe), self.prepared.dev, seed=seed, hidden=hidden)
        found = {"row": name, "seed": seed, "dev": done.dev, "seconds": done.seconds, "recipe": asdict(recipe)}
        found |= {"losses": done.losses, "parameters": sum(p.numel() for p in done.student.parameters())}
        if test:
            found["test"] = accuracy(done.student, self.prepared.test)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found, indent=1))
        say(
            f"{name}, seed {seed}: "
            + ", ".join(f"{key} {found[key]:.2f}" for key in ("dev", "test") if key in found)
            + f", {done.seconds:.0f} s"
        )
        return found


def main() -> None:
    """Run what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with train.tsv, dev.tsv and test.tsv")
    parser.add_argument("--rows", default="", help="only rows whose name this pattern fits, from its beginning")
    parser.add_argument("--seeds", type=int, default=max(SEEDS.values()), help="at most so many of a row's own")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--search", action="store_true", help="the hyper-parameters, on dev, with one other seed")
    parser.add_argument("--page", type=Path, help="write the tables to this page")
    parser.add_argument("--only-page", action="store_true", help="write it from the runs that are there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    quiet()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    bench = Bench(options.data)
    if options.search:
        for name, recipe in SEARCH.items():
            if re.match(options.rows, name):
                bench.run(name, recipe, 100, test=False)
        return
    for seed in range(0 if options.only_page else options.seeds):
        for name, recipe in ROWS.items():
            if re.match(options.rows, name) and seed < SEEDS[name]:
                bench.run(name, recipe, seed)
    if options.page:
        reading = reading_of(options.page)
        options.page.write_text(page(bench.prepared, options.threads, reading=reading))


if __name__ == "__main__":
    main()
