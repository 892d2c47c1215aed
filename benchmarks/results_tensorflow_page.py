"""docs/results_tensorflow.md: its tables come from the stored runs.

What is written by hand stands between markers and is carried over.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import keras
import numpy
import tensorflow as tf

from benchmarks import results_tensorflow_rows as rows_of
from benchmarks.machine import processor
from benchmarks.results_page import block, paired, table, written
from benchmarks.results_store import Store
from kdhooks.demo import mean_and_error

HEAD = f"""# Results in Keras

FashionMNIST with `model.fit(..., callbacks=[DistillationCallback(distiller)])`, paired seeds. Accuracy in percent, mean
± standard error over the seeds, after the last step (no best epoch is picked on the test images). Differences are
paired: a seed means the same initial weights and the same labelled images in every row. PyTorch has
[its own page](results.md), with other models and settings.

- The teacher is trained on {rows_of.TAUGHT:,} labelled images, {rows_of.TEACHER_EPOCHS} epochs. It runs in every step.
- The students have {rows_of.LABELLED:,} labels, others for each seed, among the first {rows_of.PICTURES:,} training
  images. A distilled student sees all of these, {rows_of.EPOCHS} epochs, batches of {rows_of.BATCH}; the student alone
  sees its labelled ones for as many steps.
- No augmentation. AdamW, its rate falling to 0 by a cosine; the loss with a teacher is 0.1 CE + 0.9 of the teacher's
  term (`KL` with T², or `hard_label`), plus the weighted MSE of a pair of features, matched by `auto`.
- Settings were chosen by one seed ({rows_of.TRIAL_SEED}) on the last 10,000 training images, which neither teacher nor
  students see; the trials are below. Test images are met once a student.

Command: `python -m benchmarks.results_tensorflow`, seeds 0 and up, one thread. FashionMNIST is read from Debian's
package `dataset-fashion-mnist`.
"""
NOTES = {"found": "", "trials": ""}


def write(page: Path, store: Store) -> None:
    """Write the page from what is stored so far."""
    notes = NOTES | written(page)
    page.parent.mkdir(parents=True, exist_ok=True)
    parts = [HEAD, machine(), block("found", notes), "## Students\n", models(store), students(store)]
    parts += ["## How the settings were chosen\n", trials(store), block("trials", notes).rstrip("\n"), ""]
    page.write_text("\n".join(parts), encoding="utf-8")


def machine() -> str:
    """Where and with what the page was made."""
    return (
        f"Machine: {processor()}, {os.cpu_count()} cores. Python {platform.python_version()}, TensorFlow "
        f"{tf.__version__}, Keras {keras.__version__}, NumPy {numpy.__version__}. Written on {date.today()}; other "
        "programs ran on the machine meanwhile.\n"
    )


def models(store: Store) -> str:
    """The teacher in a sentence, and the student's size."""
    teacher = store.latest("teacher", 0)
    student = next(iter(store.runs("alone").values()), None)
    if teacher is None or student is None:
        return ""
    return (
        f"Teacher: {teacher['parameters']:,} parameters, test accuracy {teacher['test']:.2f}, validation "
        f"{teacher['validation']:.2f}. Student: {student['parameters']:,} parameters.\n"
    )


def students(store: Store) -> str:
    """The table of the rows that are there."""
    runs = {row: store.runs(row) for row in rows_of.TITLES}
    against = [row for row in ("alone", "hard") if runs[row]]
    head = ["", "test accuracy", *(f"minus “{rows_of.TITLES[row]}”" for row in against)]
    rows = [[*head, "on its labelled images", "CPU seconds", "settings", "runs"]]
    for row, found in runs.items():
        if found:
            others = [runs[other] if other != row else {} for other in against]
            rows.append([rows_of.TITLES[row], *_cells(found, others)])
    both = runs["features"] and runs["logits"]
    more = f"“{rows_of.TITLES['features']}” minus “{rows_of.TITLES['logits']}”: " if both else ""
    return table(rows) + (f"\n{more}{paired(runs['features'], runs['logits'])}.\n" if both else "")


def _cells(found: dict[int, dict[str, Any]], others: Sequence[dict[int, dict[str, Any]]]) -> list[str]:
    def mean(key: str) -> float:
        return float(sum(run[key] for run in found.values()) / len(found))

    score = mean_and_error([run["score"] for run in found.values()])
    minus = [paired(found, other) for other in others]
    text = next(iter(found.values()))["text"]
    return [score, *minus, f"{mean('train'):.2f}", f"{mean('seconds'):.0f}", text, f"{len(found)}"]


def trials(store: Store) -> str:
    """The table of what was tried."""
    rows = [["tried", "validation accuracy"]]
    logits = next((run["text"] for run in store.runs("logits").values()), "")
    chosen = [recipe for recipe in rows_of.TRIALS["logits"] if recipe.text() == logits]
    tried = rows_of.TRIALS | {"features": [trial for recipe in chosen for trial in rows_of.feature_trials(recipe)]}
    for row, title in rows_of.TITLES.items():
        for recipe in tried[row]:
            found = store.latest(f"trial {row}: {recipe.text()}", rows_of.TRIAL_SEED)
            if found is not None:
                rows.append([f"{title}: {found['text']}", f"{found['score']:.2f}"])
    return table(rows)
