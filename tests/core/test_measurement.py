"""Measured metrics as far as no framework matters: definitions, statistics, units, batches, timed runs."""

from __future__ import annotations

import gc
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdhooks.config.search_settings import MEASURED
from kdhooks.errors import ConfigError, ModelError, Problem, UsageError
from kdhooks.measurement import (
    DEFINITIONS,
    Measured,
    asked_metrics,
    batch_of,
    check_inputs,
    processors,
    rows_in,
    run_failed,
    seconds_of_runs,
    shown,
    waiting,
)
from kdhooks.measurement.waiting import own_seconds


def test_every_metric_that_settings_know_is_defined_once() -> None:
    assert list(DEFINITIONS) == list(MEASURED)
    assert {name: one.higher_is_better for name, one in DEFINITIONS.items()} == dict(MEASURED)
    assert all(one.name == name and one.doc.endswith(".") for name, one in DEFINITIONS.items())


def test_an_unknown_metric_is_named() -> None:
    with pytest.raises(UsageError) as caught:
        asked_metrics(["latency", "latensy"])
    assert str(caught.value) == "'latensy' is no metric that can be measured on a model. Did you mean 'latency'?"


def test_inputs_are_asked_for_by_the_metrics_that_need_them() -> None:
    check_inputs(["parameters", "file_size"], None)
    check_inputs(["latency"], 0)
    with pytest.raises(UsageError) as caught:
        check_inputs(["latency", "parameters", "macs"], None)
    assert str(caught.value) == (
        "latency and macs can't be measured without inputs. Set example_inputs: the model's inputs for one row or "
        "more, a tensor, or a tuple or mapping of tensors"
    )


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40))
def test_the_spread_contains_the_median(samples: list[float]) -> None:
    measured = Measured.of(samples)
    assert min(samples) <= measured.low <= measured.value <= measured.high <= max(samples)
    rate = measured.rate(8)
    assert rate.low <= rate.value <= rate.high
    assert rate.value == pytest.approx(8 / np.median(samples))


def test_a_rate_of_no_time_is_infinite() -> None:
    assert Measured.exact(0.0).rate(3) == Measured.exact(float("inf"))


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("latency", 0.0052, "5.2 ms"),
        ("latency", 1.25, "1.25 s"),
        ("latency", 0.00099996, "1 ms"),
        ("latency", 32e-6, "32 µs"),
        ("latency", 0.0, "0 µs"),
        ("throughput", 512, "512 rows/s"),
        ("throughput", 30_720, "30.7 k rows/s"),
        ("parameters", 1_300_000, "1.3 M"),
        ("parameters", 63, "63"),
        ("macs", 1_814_073_344, "1.81 GMACs"),
        ("file_size", 4_800_000, "4.8 MB"),
        ("file_size", 999, "999 B"),
        ("peak_memory", 512_000, "512 kB"),
        ("latency", float("inf"), "inf"),
        ("accuracy", 0.9137, "0.9137"),
    ],
)
def test_a_number_is_shown_with_its_unit(name: str, value: float, text: str) -> None:
    assert shown(name, value) == text


def test_a_spread_is_shown_in_the_unit_of_the_value() -> None:
    assert shown("latency", Measured(0.0011, 0.0009, 0.0123)) == "1.1 ms (0.9 to 12.3)"


# ---- batches -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7])
def test_a_batch_has_the_first_rows_and_then_again(size: int) -> None:
    inputs = {"ids": np.arange(6).reshape(3, 2), "mask": [np.arange(3)], "text": ("a", None, 2.5)}
    batch = batch_of(inputs, size, np.concatenate)
    rows = [number % 3 for number in range(size)]
    assert batch["ids"].tolist() == inputs["ids"][rows].tolist()  # type: ignore[call-overload]
    assert batch["mask"][0].tolist() == rows
    assert batch["text"] == ("a", None, 2.5)


def test_what_has_no_axis_of_rows_is_left_alone() -> None:
    scale, table = np.float32(0.5), np.zeros((1, 9))
    inputs = (scale, np.ones((4, 2)), table)  # the scalar comes first, and is no row
    assert rows_in(inputs) == 4
    batch = batch_of(inputs, 2, np.concatenate)
    assert batch[0] is scale and batch[1].shape == (2, 2) and batch[2] is table


def test_inputs_without_any_axis_are_one_row() -> None:
    value = np.float32(3.0)
    assert rows_in(value) == 1
    assert batch_of(value, 5, np.concatenate) is value


def test_inputs_without_rows_are_an_error() -> None:
    with pytest.raises(UsageError) as caught:
        batch_of(np.zeros((0, 3)), 1, np.concatenate)
    assert str(caught.value) == (
        "the inputs that a model is measured on have no rows: their first axis has the length 0"
    )


# ---- timed runs ----------------------------------------------------------------------------------------


class Machine:
    """A clock that moves when something runs, and sometimes much further."""

    def __init__(self, seconds: float, delays: Callable[[int], float] = lambda run: 0.0) -> None:
        self.now, self.runs = 100.0, 0
        self._seconds, self._delays = seconds, delays

    def once(self) -> None:
        self.now += self._seconds + self._delays(self.runs)
        self.runs += 1

    def times(self, *, warm_up: int = 5, repeats: int = 30) -> list[float]:
        return seconds_of_runs(self.once, warm_up=warm_up, repeats=repeats, clock=lambda: self.now)


def test_runs_of_the_warm_up_are_not_counted() -> None:
    machine = Machine(0.25, lambda run: 9.0 if run < 5 else 0.0)
    assert machine.times() == [0.25] * 30
    assert machine.runs == 35


def test_delays_of_a_busy_machine_do_not_move_the_median() -> None:
    drawn = random.Random(0)
    slow = set(drawn.sample(range(5, 35), 12))  # of 30
    quiet, noisy = Machine(0.25), Machine(0.25, lambda run: 5 * drawn.random() if run in slow else 0.0)
    assert Measured.of(noisy.times()).value == Measured.of(quiet.times()).value == 0.25
    assert Measured.of(noisy.times()).high >= 0.25


def test_waiting_for_a_processor_is_taken_off_as_far_as_it_can_be() -> None:
    assert own_seconds(0.05, 0.01, 0.03, 1) == pytest.approx(0.02)  # the rest was the model's own waiting
    assert own_seconds(0.05, 0.01, 0.08, 1) == 0.01  # two threads waited at once
    assert own_seconds(0.05, 0.04, 0.05, 2) == 0.02
    assert own_seconds(0.05, 0.09, 0.0, 2) == 0.05
    assert own_seconds(0.05, 0.09, 0.0, 1) == 0.05  # more threads than were said


def test_a_run_beside_other_programs_takes_as_long_as_alone() -> None:
    def work() -> None:
        begun = time.process_time()
        while time.process_time() - begun < 0.02:
            pass

    spin = "import time\nend = time.time() + 60\nwhile time.time() < end: pass"
    others = [subprocess.Popen([sys.executable, "-c", spin]) for _ in range(2 * processors())]
    try:
        time.sleep(0.3)
        found = Measured.of(seconds_of_runs(work, warm_up=1, repeats=15))
    finally:
        for other in others:
            other.kill()
            other.wait()
    assert found.value >= 0.02
    assert found.value < 0.03 or not Path("/proc/self/schedstat").exists()  # where the system does not tell


def test_where_the_system_does_not_tell_nothing_was_waited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "_THREADS", Path("nowhere"))
    asked = waiting.Waiting()
    time.sleep(0.01)
    assert asked.since() == 0.0
    monkeypatch.setattr(waiting, "_resource", None)
    assert waiting.Waiting().since() == 0.0


@pytest.mark.parametrize("enabled", [True, False])
def test_the_garbage_collector_waits_and_is_as_before(enabled: bool) -> None:
    seen = []
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        seconds_of_runs(lambda: seen.append(gc.isenabled()), warm_up=0, repeats=2)
        with pytest.raises(ZeroDivisionError):
            seconds_of_runs(lambda: 1 / 0, warm_up=0, repeats=1)
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if was else gc.disable)()
    assert seen == [False, False]


@pytest.mark.parametrize(
    ("inputs", "error", "text"),
    [
        (np.zeros((1, 3)), ValueError("too few\nlines"), "it failed on an input [1, 3]: ValueError: too few"),
        ((np.zeros(2), 4), KeyError("x"), "it failed on inputs [2], int: KeyError: 'x'"),
        ({"x": np.zeros((2, 1))}, RuntimeError(), "it failed on inputs x [2, 1]: RuntimeError"),
        (
            4,
            ValueError("Exception encountered when calling X.\n\n\x1b[1mIt is bad\x1b[0m\nx"),
            "it failed on an input int: ValueError: It is bad",
        ),
        (None, UsageError("not like this"), "it failed on an input NoneType: not like this"),
    ],
)
def test_a_model_that_fails_is_named_with_inputs_and_reason(inputs: Any, error: Exception, text: str) -> None:
    found = run_failed(Machine(1.0), inputs, error)
    assert isinstance(found, ModelError)
    assert str(found) == f"Machine can't be measured: {text}"


def test_reasons_of_a_configuration_are_whole() -> None:
    problem = ConfigError([Problem("a.b", "is wrong")])
    assert str(run_failed(Machine(1.0), (), problem)).endswith("<dict>: a.b: is wrong")
