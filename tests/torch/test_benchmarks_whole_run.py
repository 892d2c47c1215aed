"""What the page of whole runs says of pairs of accuracies, and of sides that were not run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import whole_page, whole_run


def images(ours: list[float], live: list[float]) -> dict[str, Any]:
    seeds = list(range(len(ours)))
    sides = {
        side: {"seconds": [2.0 for _ in found], "accuracy": found, "seeds": seeds}
        for side, found in {"kdhooks": ours, "live": live}.items()
    }
    return {"sides": sides, "teacher_accuracy": 95.0, "ledger": "a ledger", "store_mb": 1.0}


@pytest.mark.parametrize(
    ("ours", "told"),
    [
        ([91.0, 92.0], "-1.00, +2.00 points,\nin the mean +0.50 with a standard error of 1.50. No worse: yes.\n\n"),
        (
            [91.0, 90.0],
            "-1.00, +0.00 points,\nin the mean -0.50 with a standard error of 0.50. No worse: **no**.\n\n",
        ),
        (
            [89.0, 92.0],
            "-3.00, +2.00 points,\nin the mean -0.50 with a standard error of 2.50. "
            "No worse: **no**, by less than this error.\n\n",
        ),
        ([91.0], "-1.00 points,\nin the mean -1.00. No worse: **no**.\n\n"),
    ],
)
def test_pairs_of_accuracies_have_a_mean_and_an_error(ours: list[float], told: str) -> None:
    found = whole_page.differences(images(ours, [92.0, 90.0][: len(ours)]))
    assert found == f"Accuracy over the student of the live fp32 teacher, seed by seed: {told}"


def test_sides_that_were_not_run_leave_no_ratio() -> None:
    found = {"epochs": 1, "rows": 8, "depths": [8, 14], "images": images([91.0], [91.0])}
    page = whole_page.section(found)
    assert "No ratio: the plain loop was not run here." in page and "a ledger" in page and "at most" not in page
    assert [goal.what for goal in whole_page.goals(found)] == ["accuracy over the live fp32 teacher's student"]


def test_only_runs_of_the_same_seed_are_compared() -> None:
    found = images([91.0, 92.0, 93.0], [90.0, 90.0, 90.0])
    found["sides"]["live"] = {"seconds": [4.0], "accuracy": [90.5], "seeds": [1]}
    assert whole_page.pairs(found, "kdhooks", "live", "accuracy") == [(92.0, 90.5)]
    assert whole_page.pairs(found, "kdhooks", "live", "seconds") == [(2.0, 4.0)]
    found["sides"]["live"]["seconds"] = []  # of which only the accuracy counts
    assert whole_page.pairs(found, "kdhooks", "live", "seconds") == []


def test_accuracies_of_another_run_are_shown_apart(tmp_path: Path) -> None:
    file = tmp_path / "paired.json"
    file.write_text(json.dumps({"images": images([90.0, 92.0], [91.0, 89.0])}))
    timed = images([91.0], [92.0])
    del timed["sides"]["live"]
    found = {"epochs": 1, "rows": 8, "depths": [8, 14], "images": timed, "paired": whole_run.accuracies(file)}
    page = whole_page.section(found)
    assert "| kdhooks, fp32, live teacher | – | – | 91.00, 89.00 | 90.00 |" in page
    assert "in runs of their own" in page and page.endswith("No worse: yes.") and page.count("No worse") == 1
    assert [goal.value for goal in whole_page.goals(found)] == [1.0]
