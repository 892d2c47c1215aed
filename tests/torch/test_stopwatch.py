"""Time on a CUDA device, by stand-ins for its events: recorded, asked whether they have passed, used again."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from kdhooks import Distillation
from kdhooks.torch.stopwatch import CudaStopwatch, stopwatch_of
from tests.torch.laws import pair
from tests.torch.small_models import kd_conf, train_plainly


class Event:
    """Of a device that is always one second a recording further, and knows its time after `synchronize` only."""

    recorded, capturing = 0, False

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at, self.passed = -1.0, False

    def record(self, stream: str) -> None:
        assert stream == "stream of cuda:1"
        self.at, self.passed = float(Event.recorded), False
        Event.recorded += 1

    def query(self) -> bool:
        return self.passed

    def synchronize(self) -> None:
        self.passed = True

    def elapsed_time(self, other: Event) -> float:
        return 1e3 * (other.at - self.at)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> torch.device:
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Stand-in")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: Event.capturing)
    monkeypatch.setattr(Event, "recorded", 0)
    return torch.device("cuda:1")


def test_events_are_recorded_asked_and_used_again(cuda: torch.device) -> None:
    watch = CudaStopwatch(cuda)
    first, second = watch.stamp(), watch.stamp()
    assert not watch.known(second)
    watch.wait(second)
    assert watch.known(second)
    assert watch.between([first, second, second]) == [1.0, 0.0]
    watch.give_back([first])
    assert watch.stamp() is first
    assert watch.device == "cuda:1 (Stand-in)"


def test_a_loop_on_a_device_is_timed_by_its_events(cuda: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdhooks.torch.stopwatch.stopwatch_of", lambda student: CudaStopwatch(cuda))
    student, teacher = pair()
    distiller = Distillation(kd_conf(), student_model=student, teacher_model=teacher)
    with distiller, distiller.profile() as ledger:
        train_plainly(student, steps=4, distiller=distiller)
        assert ledger.rows.count == 0  # nothing was waited for
    found = ledger.to_dict()
    medians = {name: part["median"] for name, part in found["parts"].items()}
    assert medians == {"student": 1.0, "ours": 2.0, "losses": 2.0, "teacher": 1.0}
    assert found["device"] == "cuda:1 (Stand-in)"
    assert found["notes"][-1] == "times are those of the device's stream, its waiting for the host included"


def test_a_graph_that_is_being_recorded_is_left_alone(cuda: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdhooks.torch.stopwatch.stopwatch_of", lambda student: CudaStopwatch(cuda))
    student, teacher = pair()
    distiller = Distillation(kd_conf(), student_model=student, teacher_model=teacher)
    with distiller, distiller.profile() as ledger:
        monkeypatch.setattr(Event, "capturing", True)
        before = Event.recorded
        train_plainly(student, steps=2, distiller=distiller)
        assert Event.recorded == before
    assert ledger.traced


def test_the_students_device_decides_the_stopwatch(cuda: torch.device) -> None:
    def on(name: str) -> Any:
        return SimpleNamespace(parameters=lambda: iter([SimpleNamespace(device=torch.device(name))]))

    assert isinstance(stopwatch_of(on("cuda:1")), CudaStopwatch)
    assert stopwatch_of(on("cpu")).note == stopwatch_of(nn.ReLU()).note == ""
    assert stopwatch_of(on("mps")).device == "mps"
    assert stopwatch_of(on("mps")).note == (
        "this device works behind the host, whose clock this is: only the time of whole steps is sure"
    )
