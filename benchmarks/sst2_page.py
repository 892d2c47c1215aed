"""Writes docs/results_sst2.md from the runs that are kept: nothing in its tables comes from anywhere else."""

from __future__ import annotations

import json
import platform
import statistics
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.machine import processor
from benchmarks.sst2_rows import PAIRS, ROWS, SEARCH, SEEDS
from benchmarks.sst2_store import SIZE, kept, mean_and_error, run_file
from examples.sentiment.preparation import Prepared
from examples.sentiment.teacher import correct

PAGE = """# SST-2: a MiniLM teaches small readers

Accuracy in percent on the {tests:,} test sentences of SST-2. The teacher, MiniLM with six layers, is fine-tuned on the
{trains:,} labelled training sentences, and that is all that anyone here has read: no phrases, and the students begin
with random weights, without word vectors. `examples/sst2.py` shows the same in small.

| model | parameters | sentences × epochs | rate | runs | test, mean ± standard error | dev | seconds a run |
| --- | --- | --- | --- | --- | --- | --- | --- |
{rows}

- **alone**: learns from the labels.
- **logits**: and from the teacher's logits;
  {logits}.
- **features**: and the transformer's embeddings and two layers follow the teacher's embeddings, third and sixth layer,
  token by token, through a linear matcher;
  {features};
  augmented, weights {weights}. Each of the teacher's channels is standardised over all tokens first,
  so that 1 is the loss of knowing its mean alone. The losses of the three at the last step, mean over the runs that
  kept them: {last}; augmented, {last_augmented}.
- **augmented**: {more:,} more sentences without labels, made from the training sentences: words masked (10%) or dropped
  (10%), n-grams of up to five words cut out, halves of two sentences joined (after Tang et al. 2019); the teacher's
  logits say what they are worth. Students read a masked word as one that they don't know.
- **hard labels, augmented**: the control: the same sentences, those without labels labelled with the teacher's best
  class, cross-entropy alone.

The teacher's logits and hidden states were computed once and handed in. Seconds are of a machine that others used too.

## Paired differences

The same seed on both sides: the same initial weights, and where both see the same sentences, the same order.

| difference | points, mean ± standard error | seeds in favour |
| --- | --- | --- |
{pairs}

{reading}## How it was measured

Commands: `{command} --search`, then the same with
`--page docs/results_sst2.md` in place of `--search`; {threads} thread; seeds from 0 on{missing}. Machine: {processor};
Python {python}, torch {torch}, transformers {transformers}. Errors are those of the mean over seeds with one teacher;
which sentences the test has adds about ±{sampling:.1f} points to any single figure, much of it alike for all rows.

A run looks at the {devs} dev sentences ten times, and its weights are the best of these looks; the test sentences are
met once, with these weights. Choices were made on dev before, with one seed that no row has, so that differences of
less than about two points decide little. What does not stand here was not searched in runs that are kept:

| tried | dev |
| --- | --- |
{search}
"""
READING = "## What the figures say"


def reading_of(path: Path) -> str:
    """What a person wrote under ``## What the figures say`` on the page that is there."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    begin, end = text.find(READING), text.find("## How it was measured")
    return text[begin:end] if begin >= 0 else ""


def figure(values: list[float], digits: int = 2) -> str:
    """Mean ± standard error, or the one value."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    mean, error = mean_and_error(values)
    return f"{mean:.{digits}f} ± {error:.{digits}f}"


def runs_of(name: str) -> list[dict[str, Any]]:
    """The runs of a row that are done."""
    return kept(ROWS[name], range(SEEDS[name]))


def row(name: str, prepared: Prepared) -> str:
    """One line of the table."""
    recipe, runs = ROWS[name], runs_of(name)
    sees = len(prepared.train) + (len(prepared.more) if recipe.augment else 0)
    return (
        f"| {name} | {runs[0]['parameters']:,} | {sees:,} × {recipe.epochs:g} | {recipe.rate:g} | {len(runs)} | "
        f"{figure([run['test'] for run in runs])} | {statistics.fmean(run['dev'] for run in runs):.2f} | "
        f"{statistics.median(run['seconds'] for run in runs):.0f} |"
    )


def last_losses(name: str) -> str:
    """The losses of a row's features at the last step, mean over the runs that told them."""
    told = [run["losses"] for run in runs_of(name) if "losses" in run]
    layers = ("MSE[norm]", "MSE[layers.0]", "MSE[layers.1]")
    return ", ".join(f"{statistics.fmean(one[layer] for one in told):.2f}" for layer in layers) if told else "unknown"


def difference(first: str, second: str) -> list[float]:
    """The first row's accuracy minus the second's, for each seed that both have."""
    ours, theirs = ({run["seed"]: run["test"] for run in runs_of(name)} for name in (first, second))
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


def _criterion(name: str, criterion: str) -> str:
    """The options of a row's criterion as they are given to kdhooks."""
    options = ROWS[name].conf()["distillation"]["train"]["criterion"][criterion]
    told = {key: value for key, value in options.items() if key in ("loss_types", "loss_weights", "temperature")}
    return f"`{criterion}`, " + ", ".join(f"{key} {json.dumps(value)}" for key, value in told.items())


def searched() -> list[str]:
    """What was tried on dev."""
    lines = []
    for name, recipe in SEARCH.items():
        path = run_file(recipe, 100)
        if path.is_file():
            lines.append(f"| {name} | {json.loads(path.read_text())['dev']:.2f} |")
    return lines


def page(prepared: Prepared, threads: int, *, reading: str = "") -> str:
    """The whole page.

    Args:
        prepared: data and teacher.
        threads: of the runs.
        reading: what a person found in the figures, kept from the page that is there.
    """
    size = sum(p.numel() for p in prepared.teacher.parameters())
    score, dev = (correct(part.taught, part.labels) for part in (prepared.test, prepared.dev))
    seen = f"{len(prepared.train):,} × {SIZE.teacher_epochs} | {SIZE.teacher_rate:g}"
    rows = [f"| teacher | {size:,} | {seen} | 1 | {score:.2f} | {dev:.2f} | |"]
    rows += [row(name, prepared) for name in ROWS if runs_of(name)]
    pairs = []
    for first, second in PAIRS:
        found = difference(first, second)
        if found:
            wins = sum(value > 0 for value in found)
            pairs.append(f"| {first} − {second} | {figure(found)} | {wins} of {len(found)} |")
    lacking = [name for name in ROWS if len(runs_of(name)) < SEEDS[name]]
    missing = f" (not all are done for: {', '.join(lacking)})" if lacking else ""
    told: dict[str, Any] = {
        "missing": missing,
        "tests": len(prepared.test),
        "trains": len(prepared.train),
        "devs": len(prepared.dev),
        "more": len(prepared.more),
        "logits": _criterion("BiLSTM logits", "KnowledgeDistillationLoss"),
        "features": _criterion("Transformer logits + features", "IntermediateLayersKnowledgeDistillationLoss"),
        "last": last_losses("Transformer logits + features"),
        "last_augmented": last_losses("Transformer logits + features, augmented"),
        "weights": json.dumps(ROWS["Transformer logits + features, augmented"].features),
        "sampling": 100 * (score / 100 * (1 - score / 100) / len(prepared.test)) ** 0.5,
        "command": "python -m benchmarks.sst2 --data FOLDER",
        "processor": processor(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "transformers": version("transformers"),
    }
    return PAGE.format(
        rows="\n".join(rows),
        pairs="\n".join(pairs),
        search="\n".join(searched()),
        threads=threads,
        reading=reading,
        **told,
    )
