"""What a ledger shows: the table, the JSON, and what is kept of many steps."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdhooks.ledger import StepLedger
from kdhooks.ledger.machine import machine, versions
from kdhooks.ledger.rows import Rows, quantiles
from tests.core.ledger_loops import opened, told_all, told_nothing, told_the_end

BARE = (
    "student: all that lies between our calls, so the forward, the backward, the optimizer and the data together; "
    "on_step_begin() and on_step_end() divide it"
)
BACKWARD = "the backward of the distillation's losses runs in the student's and counts as its part"


# ---- what is kept of many steps --------------------------------------------------------------------


def test_many_steps_keep_a_regular_sample_and_whole_sums() -> None:
    rows = Rows(kept=8)
    for index in range(100):
        rows.add({"a": float(index), **({"b": 1.0} if index >= 50 else {})})
    assert list(rows.kept["a"]) == [0, 16, 32, 48, 64, 80, 96]
    assert list(rows.kept["b"]) == [0, 0, 0, 0, 1, 1, 1]
    assert rows.columns(["a", "b", "c"]) == [0, 16, 32, 48, 65, 81, 97]
    assert (rows.count, rows.length, rows.sums) == (100, 7, {"a": 4950.0, "b": 50.0})
    assert rows.columns(["c"]) == [0.0] * 7


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100])
def test_quantiles_are_those_of_numpy(count: int) -> None:
    import numpy

    values = numpy.random.default_rng(count).normal(size=count)
    expected = numpy.quantile(values, [0.25, 0.5, 0.75])
    found = quantiles(list(values))
    assert [found["q1"], found["median"], found["q3"]] == pytest.approx(list(expected), abs=1e-15)


def test_rows_are_the_first_axis_of_the_first_array() -> None:
    ledger, _ = opened()
    array = SimpleNamespace(shape=(8, 3))
    scalar, unknown, of_no_rank = (SimpleNamespace(shape=shape) for shape in ((), (None, 3), 3))
    for given in (array, (array, array), [scalar, array], {"ids": array, "mask": array}, {"x": [array]}):
        ledger.step_of(given)
    for given in (scalar, unknown, of_no_rank, None, 3, [], {}):
        ledger.step_of(given)
    assert ledger.counts == {"losses": 12, "rows": 40}


# ---- what is shown ---------------------------------------------------------------------------------


def shown() -> StepLedger:
    ledger, watch = opened()
    for index in range(5):
        watch.now += index / 1024
        told_all(ledger, watch)
        ledger.step_of(SimpleNamespace(shape=(8, 3)))
        ledger.count("hits", 6)
        ledger.count("misses", 2)
    ledger.close()
    ledger.seconds = 12.0
    return ledger


def test_the_table() -> None:
    assert str(shown()) == (
        "ledger of 4 steps after the first, 40 rows, 12.0 s, clock of a test\n"
        "part                      median, s         quartiles    share\n"
        "student                       48.00    48.00 to 48.00   37.1 %\n"
        "  forward                     16.00    16.00 to 16.00   12.4 %\n"
        "  backward and optimizer      32.00    32.00 to 32.00   24.7 %\n"
        "data                          64.00    64.00 to 64.00   49.4 %\n"
        "teacher                        8.00      8.00 to 8.00    6.2 %\n"
        "cache                          4.00      4.00 to 4.00    3.1 %\n"
        "losses                         4.00      4.00 to 4.00    3.1 %\n"
        "ours                           1.50      1.50 to 1.50    1.2 %\n"
        "step                         129.50  129.50 to 129.50  100.0 %\n"
        "over the floor: 1.156 (the same step without our parts: 112.00 s)\n"
        "stored outputs: 75.0 % of 40 rows were there\n"
        "first step, apart: 65.50 s\n"
        "outside of steps: 64.00 s (setup, evaluation, checkpoints)\n"
        f"note: {BACKWARD}"
    )


@pytest.mark.parametrize(
    ("scale", "row"),
    [(1e-6, "student  48.00"), (1e-3, "student  48.00")],
)
def test_times_are_in_the_unit_that_suits_a_step(scale: float, row: str) -> None:
    from kdhooks.ledger.table import as_text

    found = shown().to_dict()
    for part in [found["step"], *found["parts"].values()]:
        for key in ("median", "q1", "q3"):
            part[key] *= scale
    text = as_text(found)
    assert ("median, µs" if scale == 1e-6 else "median, ms") in text
    assert " ".join(row.split()) in " ".join(text.split())


def test_a_loop_that_tells_little_is_labelled_so() -> None:
    ledger, watch = opened()
    for _ in range(3):
        told_nothing(ledger, watch)
    ledger.close()
    found = ledger.to_dict()
    assert list(found["parts"]) == ["student", "teacher", "cache", "losses", "ours"]
    assert found["notes"] == [BARE, BACKWARD]


def test_what_could_not_be_divided_stands_beside_what_could() -> None:
    ledger, watch = opened()
    for _ in range(3):
        told_the_end(ledger, watch)
    ledger.close()
    parts = ledger.to_dict()["parts"]
    assert {name: part["median"] for name, part in parts.items() if part.get("of") == "student"} == {
        "backward": 32.0,
        "undivided": 16.0,
    }
    assert parts["student"]["median"] == 48


def test_parts_of_a_users_own_name_come_last() -> None:
    ledger, watch = opened()
    for _ in range(2):
        with ledger.part("augmentation"):
            watch.now += 4
        told_nothing(ledger, watch)
    ledger.close()
    assert list(ledger.to_dict()["parts"])[-1] == "augmentation"
    assert ledger.rows.sums["augmentation"] == 4


def test_a_ledger_without_steps_says_why() -> None:
    ledger, watch = opened()
    told_nothing(ledger, watch)
    ledger.close()
    assert ledger.to_dict()["notes"] == [
        "no step was timed: on_after_compute_loss was not called twice while the profile was open"
    ]


def test_it_is_saved_as_plain_json_whole_or_not_at_all(tmp_path: Path) -> None:
    ledger = shown()
    ledger.options = {"framework": "pytorch"}
    path = ledger.save(tmp_path / "new" / "ledger.json")
    assert json.loads(path.read_text(encoding="utf-8")) == ledger.to_dict()
    assert [file.name for file in path.parent.iterdir()] == ["ledger.json"]
    ledger.options = {"framework": object()}
    with pytest.raises(TypeError):
        ledger.save(path)
    assert json.loads(path.read_text(encoding="utf-8"))["options"] == {"framework": "pytorch"}
    assert [file.name for file in path.parent.iterdir()] == ["ledger.json"]


def test_the_keys_of_the_json() -> None:
    found = shown().to_dict()
    assert (found["format"], found["version"]) == ("kdhooks.ledger", 1)
    assert list(found) == [
        "format", "version", "machine", "versions", "device", "options", "seconds", "steps", "first_step",
        "outside_seconds", "counts", "hit_rate", "in_graph", "step", "parts", "floor", "elsewhere", "notes",
    ]  # fmt: skip
    assert found["counts"] == {"hits": 30, "losses": 5, "misses": 10, "rows": 40}
    assert found["hit_rate"] == 0.75
    assert found["floor"] == {
        "median": 112.00244140625,
        "q1": 112.001708984375,
        "q3": 112.003173828125,
        "ratio": pytest.approx(129.5 / 112, rel=1e-4),
    }
    assert found["parts"]["cache"] == {
        "median": 4.0, "q1": 4.0, "q3": 4.0, "mean": 4.0, "sum": 16.0, "share": 16 / found["step"]["sum"],
    }  # fmt: skip
    assert set(machine()) == {"processor", "cores", "system"}
    assert {"python", "kdhooks"} <= set(versions())
