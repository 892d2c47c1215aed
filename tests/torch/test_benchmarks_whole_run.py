"""What the page of whole runs says of pairs of accuracies, and of sides that were not run."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import whole_page


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
