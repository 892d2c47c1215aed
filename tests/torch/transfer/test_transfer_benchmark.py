"""The benchmark of weight transfer: what it measures, and that there is no second copy in memory."""

from __future__ import annotations

import argparse

from benchmarks import transfer


def test_both_sides_write_the_same_weights() -> None:
    for side in transfer.SIDES:
        student = transfer.Student(0.05)
        transfer.RUNS[side](student, transfer.state_of(student, "module."), "module.")
        assert all(bool((value == 0.5).all()) for value in student.state_dict().values())
    assert {side: len(several) for side, several in transfer.times(0.05, 2, "").items()} == {
        "load_state_dict": 2,
        "transfer": 2,
    }


def test_a_state_of_many_megabytes_leaves_no_trace_of_that_size() -> None:
    options = argparse.Namespace(millions=40, threads=1)  # 160 MB; what import left is below 40
    assert transfer.in_a_process("transfer", options, "module.") < 80


def test_the_page_has_both_cases_and_the_goals() -> None:
    one = {
        "seconds": {"load_state_dict": 0.1, "transfer": 0.11},
        "ratio": 1.1,
        "extra_mb": dict.fromkeys(transfer.SIDES, 2.0),
    }
    result = {"cases": {"below module.": one}, "millions": 100, "rounds": 9}
    assert transfer.section(result).splitlines()[-1] == "| below module. | 100.0 | 110.0 | 1.100 | 1.2 | 2.0 / 2.0 |"
    assert [(goal.value, goal.bound, goal.reached) for goal in transfer.goals(result)] == [
        (1.1, 1.2, True),
        (0, 0.05, True),
    ]
