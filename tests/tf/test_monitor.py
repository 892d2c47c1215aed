"""Components are summed without waiting, alike for eager steps and steps in a graph, and what went bad is named."""

from __future__ import annotations

import logging
import math
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks_tf.monitor import ROWS, SPARE, WIDTH, Monitor
from kdhooks_tf.weighing import weigh
from tests.tf.loop_models import MODES, Loop, batches, classifier, cross_entropy, kd_conf


def recording(monitor: Monitor, mode: str, names: tuple[str, ...]) -> Any:
    def record(step: Any, *values: Any) -> None:
        monitor.record(step, names, values)

    if mode == "eager":
        return record
    function = tf.function(record, jit_compile=mode == "compiled")
    return lambda step, *values: function(tf.constant(step, tf.int64), *(tf.constant(value) for value in values))


@pytest.mark.parametrize("mode", MODES)
def test_means_and_the_last_step(mode: str) -> None:
    monitor = Monitor()
    record = recording(monitor, mode, ("CE", "total"))
    assert monitor.last() == {} and monitor.end_epoch() == {} and monitor.first_bad() is None
    for step in range(2 * ROWS + 3):
        record(step, tf.constant(float(step)), tf.constant(2.0 * step, tf.float64))
    assert monitor.last() == {"CE": 2.0 * ROWS + 2, "total": 4.0 * ROWS + 4}
    assert monitor.end_epoch() == {"CE": ROWS + 1.0, "total": 2 * ROWS + 2.0}
    assert monitor.last() == {"CE": 2.0 * ROWS + 2, "total": 4.0 * ROWS + 4}
    record(0, tf.constant(5.0), tf.constant(6.0, tf.float64))
    assert monitor.end_epoch() == {"CE": 5.0, "total": 6.0}
    assert monitor.end_epoch() == {} and monitor.first_bad() is None


@pytest.mark.parametrize("mode", MODES)
def test_the_first_bad_component_is_named(mode: str) -> None:
    monitor = Monitor()
    record = recording(monitor, mode, ("CE", "KL", "total"))
    for step in range(5):
        bad = math.nan if step >= 3 else 1.0
        record(step + 10, tf.constant(1.0), tf.constant(bad), tf.constant(bad))
    assert monitor.first_bad() == (13, "KL")
    record(20, tf.constant(math.inf), tf.constant(1.0), tf.constant(1.0))
    assert monitor.first_bad() == (13, "KL")
    monitor.load_state_dict(monitor.state_dict())
    assert monitor.first_bad() is None


def test_eager_steps_and_traced_ones_add_up() -> None:
    monitor = Monitor()
    eager, graph, other = (
        recording(monitor, mode, names)
        for mode, names in (("eager", ("a", "total")), ("graph", ("a", "total")), ("graph", ("b", "total")))
    )
    one = tf.constant(1.0)
    eager(0, one, one)
    graph(1, 3 * one, 3 * one)
    assert monitor.last() == {"a": 3.0, "total": 3.0}
    eager(2, 5 * one, 5 * one)
    assert monitor.last() == {"a": 5.0, "total": 5.0}
    other(3, 7 * one, 7 * one)
    assert monitor.last() == {"b": 7.0, "total": 7.0}
    saved = monitor.state_dict()
    assert monitor.end_epoch() == {"a": 3.0, "total": 4.0, "b": 7.0}
    fresh = Monitor()
    fresh.load_state_dict(saved)
    recording(fresh, "graph", ("a", "total"))(4, 7 * one, one)
    assert fresh.end_epoch() == {"a": 4.0, "total": 17 / 5, "b": 7.0}


def test_more_components_than_expected() -> None:
    monitor = Monitor()
    for count in range(1, SPARE + 3):
        names = tuple(f"{count}.{one}" for one in range(WIDTH * (count % 2) + count))
        recording(monitor, "graph", names)(0, *(tf.constant(float(one)) for one in range(len(names))))
        assert monitor.last() == {name: float(index) for index, name in enumerate(names)}


@pytest.mark.parametrize("mode", ["graph", "compiled"])
def test_a_component_of_weight_zero_is_not_counted(mode: str) -> None:
    monitor = Monitor()

    @tf.function(jit_compile=mode == "compiled")
    def step(index: Any, factor: Any) -> None:
        value, weighted = weigh(factor, lambda: tf.constant(3.0))
        monitor.record(index, ("KL", "total"), [value, 1.0 + weighted])

    for index, factor in enumerate((0.0, 0.5, 0.0)):
        step(tf.constant(index, tf.int64), tf.constant(factor, tf.float64))
    assert monitor.last() == {"total": 1.0}
    assert monitor.end_epoch() == {"total": 4.5 / 3, "KL": 3.0}


@pytest.mark.parametrize("mode", MODES)
def test_a_run_says_what_went_bad(mode: str, caplog: pytest.LogCaptureFixture) -> None:
    teacher = classifier(2)
    teacher.layers[-1].bias.assign([np.nan] * 4)
    student = classifier(1)
    with Distillation(kd_conf(), student_model=student, teacher_model=teacher) as distiller:
        Loop(student, mode, distiller=distiller).run(1)
        with caplog.at_level(logging.WARNING, "kdhooks"):
            assert math.isnan(distiller.losses["KL"]) and not math.isnan(distiller.losses["CE"])
    said = "the loss component 'KL' became NaN or infinite at step 0"
    assert [record.message for record in caplog.records if record.name == "kdhooks"] == [said]
    assert distiller.first_bad() == (0, "KL")


def test_a_step_reads_nothing_from_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    student = classifier(1)
    x, y = batches()[0]
    with Distillation(kd_conf([1.0, 0.5]), student_model=student, teacher_model=classifier(2)) as distiller:
        output = student(x)
        loss = cross_entropy(y, output)
        distiller.on_after_compute_loss(x, output, loss)
        kind = type(loss)

        def refuse(*_: Any) -> Any:
            raise AssertionError("a tensor was read")

        with monkeypatch.context() as patch:
            for name in ("numpy", "__bool__", "__float__", "__int__", "__array__"):
                patch.setattr(kind, name, refuse)
            total = distiller.on_after_compute_loss(x, output, loss)
        assert np.isfinite(float(total))
