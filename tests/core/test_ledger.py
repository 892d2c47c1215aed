"""The ledger with a clock that a test sets: every moment belongs to one part, whatever the loop tells."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from kdhooks.errors import UsageError
from kdhooks.ledger import OFF, StepLedger
from tests.core.ledger_loops import (
    OF_A_LOSS,
    Hands,
    Late,
    ends,
    loss,
    opened,
    told_all,
    told_nothing,
    told_the_begin,
    told_the_end,
)

LOOPS: list[Any] = [
    pytest.param(told_nothing, {"student": 48.0, **OF_A_LOSS}, id="the loss only"),
    pytest.param(told_the_end, {"student": 16.0, "backward": 32.0, **OF_A_LOSS, "ours": 1.25}, id="and the end"),
    pytest.param(told_the_begin, {"student": 96.0, "forward": 16.0, **OF_A_LOSS, "ours": 1.25}, id="and the begin"),
    pytest.param(told_all, {"data": 64.0, "forward": 16.0, "backward": 32.0, **OF_A_LOSS, "ours": 1.5}, id="and both"),
]


@pytest.mark.parametrize(("step", "expected"), LOOPS)
def test_every_moment_of_a_step_belongs_to_one_part(step: Callable[..., None], expected: dict[str, float]) -> None:
    ledger, watch = opened()
    for _ in range(4):
        step(ledger, watch)
    ledger.close()
    assert ledger.rows.count == 3
    assert {name: list(column) for name, column in ledger.rows.kept.items()} == {
        name: [seconds] * 3 for name, seconds in expected.items()
    }
    assert ledger.rows.sums == {name: 3 * seconds for name, seconds in expected.items()}


def test_the_parts_of_all_steps_are_the_whole_time() -> None:
    ledger, watch = opened()
    for _ in range(4):
        told_all(ledger, watch)
    ledger.close()
    assert sum(ledger.rows.sums.values()) + sum(ledger.first.values()) == watch.now


def test_the_first_step_stands_apart_and_what_was_before_it_is_no_step() -> None:
    ledger, watch = opened()
    watch.now += 1024  # models are made, data is read
    for _ in range(3):
        told_all(ledger, watch)
    ledger.close()
    found = ledger.to_dict()
    assert found["first_step"] == {"seconds": 65.5, "parts": {**OF_A_LOSS, "ours": 1.5, "forward": 16, "backward": 32}}
    assert found["outside_seconds"] == 1024 + 64
    assert found["step"]["median"] == found["step"]["mean"] == 129.5


def test_a_run_that_begins_starts_the_time_anew() -> None:
    ledger, watch = opened()
    watch.now += 16
    loss(ledger, watch)
    ledger.began(watch)  # the half step is forgotten
    for _ in range(2):
        told_nothing(ledger, watch)
    ledger.close()
    assert (ledger.rows.count, ledger.first["student"], ledger.rows.sums["student"]) == (1, 16, 48)


def test_groups_of_batches_are_one_step_of_the_built_in_loop() -> None:
    ledger, watch = opened()
    for _ in range(3):
        ledger.epoch_begins()
        ledger.of_built_in_loop(True)
        with ledger.part("data"):
            watch.now += 64
        watch.now += 0.5  # of the loop itself
        for _ in range(2):
            ends(ledger, watch, "begin")
            watch.now += 16
            loss(ledger, watch)
            watch.now += 32
        ends(ledger, watch, "end")
        with ledger.part("outside"):
            watch.now += 512
    ledger.close()
    every = {name: 2 * seconds for name, seconds in OF_A_LOSS.items()}
    every |= {"data": 64, "forward": 32, "backward": 64, "ours": 2 + 3 * 0.25}
    assert ledger.rows.sums == {**{name: 2 * seconds for name, seconds in every.items()}, "outside": 2 * 512.5}
    assert ledger.to_dict()["parts"]["data"]["median"] == 64


def test_what_lies_between_epochs_belongs_to_no_step() -> None:
    ledger, watch = opened()
    for epoch in range(2):
        watch.now += 256  # validation
        ledger.epoch_begins()
        for _ in range(2):
            told_all(ledger, watch)
        if not epoch:
            ends(ledger, watch, "begin")  # a step that finds no more data
    ledger.close()
    found = ledger.to_dict()
    assert (found["steps"], found["parts"]["data"]["sum"]) == (3, 64 * 2)
    assert found["outside_seconds"] == 2 * (256 + 64) + 0.25
    assert found["step"]["sum"] == 3 * 65.5 + 2 * 64


def test_an_epoch_of_a_loop_that_tells_no_ends_keeps_its_last_backward() -> None:
    ledger, watch = opened()
    for _ in range(2):
        ledger.epoch_begins()
        for _ in range(2):
            told_nothing(ledger, watch)
    ledger.close()
    assert ledger.rows.sums["student"] == 3 * 48


def test_exceptions_close_parts_and_borders() -> None:
    ledger, watch = opened()
    for index in range(4):
        watch.now += 16
        try:
            with ledger.border("loss"):
                watch.now += 1
                with ledger.part("losses"), ledger.part("teacher"):
                    watch.now += 2
                    if index == 1:
                        raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        watch.now += 32
    ledger.close()
    assert ledger.rows.sums == {"student": 3 * 48.0, "ours": 3.0, "losses": 0.0, "teacher": 6.0}


def test_a_part_around_our_calls_ends_at_them() -> None:
    ledger, watch = opened()
    for _ in range(3):
        watch.now += 16
        with ledger.part("mine"):
            watch.now += 4
            loss(ledger, watch)
            watch.now += 32
    ledger.close()
    assert ledger.rows.sums == {
        **{name: 2 * seconds for name, seconds in OF_A_LOSS.items()},
        "student": 2 * 48.0,
        "mine": 2 * 4.0,
    }


def test_only_so_many_steps_are_timed() -> None:
    ledger, watch = opened(steps=2)
    for _ in range(10):
        told_nothing(ledger, watch)
        ledger.step_of(SimpleNamespace(shape=(8, 3)))
    ledger.close()
    assert ledger.rows.count == 2
    assert ledger.counts["losses"] < 5
    with pytest.raises(UsageError) as caught:
        StepLedger(0)
    assert str(caught.value) == "profile(steps=0): at least one step has to be timed; None times all"


def test_a_closed_ledger_and_the_one_that_is_off_time_nothing() -> None:
    ledger, watch = opened()
    for _ in range(3):
        told_nothing(ledger, watch)
    ledger.close()
    before = ledger.to_dict()
    for one in (ledger, OFF):
        told_all(one, watch)
        one.count("hits", 3)
        one.step_of(SimpleNamespace(shape=(8, 3)))
        one.epoch_begins()
    assert ledger.to_dict() == before
    assert OFF.part("teacher") is OFF.border("loss")  # one object for all, which is never made anew


def test_closing_within_a_part_is_no_mistake() -> None:
    ledger, watch = opened()
    told_nothing(ledger, watch)
    watch.now += 16
    with ledger.border("loss"), ledger.part("losses"):
        watch.now += 1
        ledger.close()
    told_nothing(ledger, watch)
    assert ledger.rows.count == 0


def test_opening_within_a_part_is_no_mistake() -> None:
    ledger, watch = StepLedger(), Hands()
    with ledger.border("loss"):  # nothing is timed yet
        ledger.open()
        ledger.began(watch)
    for _ in range(3):
        told_nothing(ledger, watch)
    ledger.close()
    assert ledger.rows.sums["student"] == 2 * 48


# ---- a device behind the host ----------------------------------------------------------------------


def test_no_step_waits_for_a_device_and_stamps_are_used_again() -> None:
    watch = Late(behind=40)
    ledger, _ = opened(watch)
    for index in range(50):
        told_all(ledger, watch)
        assert watch.waited == 0
        if index == 1:
            assert not ledger.first  # the device has not told yet
    ledger.close()
    assert watch.waited > 0
    assert ledger.rows.count == 49
    assert ledger.rows.sums["teacher"] == 49 * 8
    assert len({id(stamp) for stamp in watch.made}) < 80 < len(watch.made)


def test_what_a_device_has_not_told_is_waited_for_at_the_end() -> None:
    watch = Late(behind=10_000)
    ledger, _ = opened(watch)
    for _ in range(5):
        told_nothing(ledger, watch)
    assert ledger.rows.count == 0
    ledger.close()
    assert (ledger.rows.count, ledger.rows.sums["student"]) == (4, 4 * 48)


def test_the_host_clock_costs_microseconds_a_step() -> None:
    ledger = StepLedger()
    ledger.open()
    best = 1.0
    for _ in range(20):
        began = time.perf_counter()
        for _ in range(200):
            with ledger.border("begin"):
                pass
            with ledger.border("loss"), ledger.part("losses"), ledger.part("teacher"):
                pass
            with ledger.border("end"):
                pass
        best = min(best, (time.perf_counter() - began) / 200)
    assert best < 100e-6  # about 7 on a quiet machine
