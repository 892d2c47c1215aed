"""The copy to a teacher on another GPU, with stand-ins for devices and streams."""

from __future__ import annotations

import copy
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdhooks.torch.overlap import Overlap, overlapped


class OnGpu(Tensor):
    """A tensor that says it lies on the first GPU."""

    log: Any = None

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("cuda", 0)

    def record_stream(self, stream: Any) -> None:
        OnGpu.log.append(f"keep for {stream}")


class Streams:
    """The part of `torch.cuda` that is used, written down."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.now = "main"
        self.events = 0
        OnGpu.log = self.log

    def current_stream(self, device: Any) -> Streams:
        self.log.append(f"main of {device}")
        return self

    def record_event(self) -> str:
        self.events += 1
        self.log.append(f"event {self.events}")
        return f"event {self.events}"

    def Stream(self, device: Any) -> Any:
        self.log.append(f"side of {device}")
        log = self.log

        class Side:
            def wait_event(self, event: str) -> None:
                log.append(f"side waits for {event}")

            def __str__(self) -> str:
                return "side"

        return Side()

    @contextmanager
    def stream(self, side: Any) -> Any:
        self.now = str(side)
        yield
        self.now = "main"


@pytest.fixture
def streams() -> Streams:
    return Streams()


@pytest.fixture
def overlap(streams: Streams) -> Overlap:
    def move(tensor: Tensor) -> Tensor:
        streams.log.append(f"copy on {streams.now}")
        return tensor.as_subclass(Tensor) * 1

    return Overlap(move, torch.device("cuda", 1), streams)


def on_gpu() -> OnGpu:
    return torch.randn(2, 6).as_subclass(OnGpu)


class Student(nn.Linear):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return super().forward(x.as_subclass(Tensor))


def test_what_the_student_got_is_copied_beside_its_forward(overlap: Overlap, streams: Streams) -> None:
    student, x, mask = Student(6, 4), on_gpu(), on_gpu()
    overlap.attach(student)
    student(x, mask=mask)
    assert streams.log == ["main of cuda:0", "event 1"]
    streams.log.clear()
    overlap(x)
    overlap(mask)
    assert streams.log == [
        *("side of cuda:0", "side waits for event 1", "copy on side", "keep for side"),
        *("side waits for event 1", "copy on side", "keep for side"),
    ]
    streams.log.clear()
    student(x)
    overlap(x)
    assert streams.log[:3] == ["main of cuda:0", "event 2", "side waits for event 2"]
    overlap.detach()
    overlap.detach()
    streams.log.clear()
    student(x)
    overlap(x)
    assert streams.log == ["copy on main"]
    assert not student._forward_pre_hooks


def test_what_came_later_or_was_written_to_is_copied_in_order(overlap: Overlap, streams: Streams) -> None:
    student, x, other = Student(6, 4), on_gpu(), on_gpu()
    overlap(x)  # before any forward
    overlap.attach(student)
    student(x)
    streams.log.clear()
    overlap(other)
    x.add_(1)
    overlap(x)
    assert streams.log == ["copy on main"] * 2


def test_what_lies_elsewhere_is_copied_in_order(overlap: Overlap, streams: Streams) -> None:
    student, x = Student(6, 4), torch.randn(2, 6)
    overlap.attach(student)
    student(x)
    overlap(x)
    assert streams.log == ["copy on main"]


def test_a_copy_of_the_student_marks_nothing(overlap: Overlap, streams: Streams) -> None:
    student = Student(6, 4)
    overlap.attach(student)
    copy.deepcopy(student)(on_gpu())
    assert streams.log == []


def test_models_on_one_device_need_none() -> None:
    student = nn.Linear(6, 4)
    assert overlapped(lambda tensor: tensor, torch.device("cpu"), student) is None
    assert overlapped(lambda tensor: tensor, torch.device("cuda", 1), student) is None
    assert not student._forward_pre_hooks
