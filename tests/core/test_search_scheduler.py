"""The scheduler of parts, without a framework."""

from __future__ import annotations

from typing import Any

import pytest

from kdhooks.errors import UsageError
from kdhooks.search.distilling.scheduler import Scheduler


class Part:
    """Notes what it got."""

    def __init__(self, student: Any = None, returned: Any = None) -> None:
        self.student_model, self.returned = student, returned
        self.got: Any = None

    def __call__(self) -> Any:
        self.got = self.student_model
        return self.returned


def test_each_part_gets_what_the_one_before_returned() -> None:
    parts = Part("student"), Part(returned="other"), Part()
    scheduler = Scheduler()
    scheduler.combine(*parts[:2])
    scheduler.combine(parts[2])
    assert scheduler.student_model == "student"
    assert scheduler() == "other" == scheduler.model
    assert [part.got for part in parts] == ["student", "student", "other"]


def test_the_schedulers_own_student_comes_first() -> None:
    scheduler = Scheduler()
    part = Part("student")
    scheduler.combine(part)
    scheduler.model = "mine"
    assert scheduler() == "mine" == part.got


def told(run: Any) -> str:
    with pytest.raises(UsageError) as caught:
        run()
    return str(caught.value)


def test_what_is_wrong_is_said() -> None:
    scheduler = Scheduler()
    assert told(scheduler) == "there is nothing to run: scheduler.combine(flash, regular) comes first"
    assert told(scheduler.combine) == (
        "combine() got nothing: give it the parts, as in scheduler.combine(flash, regular)"
    )
    assert told(lambda: scheduler.combine(Part(), Part)) == (
        "part 2, the class Part, can't be called: give an object such as a Distillation"
    )
    assert told(lambda: scheduler.combine(7)) == "part 1, 7, can't be called: give an object such as a Distillation"
    assert told(lambda: scheduler.combine(print)) == (
        "part 1, builtin_function_or_method, has no student_model, so it can't be given the student"
    )
    assert told(lambda: scheduler.combine(Part("one"), Part("two"))) == (
        "the parts have different students: set the student of one of them, or of the scheduler"
    )
    assert scheduler.parts == []
    scheduler.combine(Part())
    assert told(scheduler) == "no student is set: scheduler.student_model = ... comes before scheduler()"
