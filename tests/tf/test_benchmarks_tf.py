"""The benchmark of TensorFlow's steps, with models and rounds that are as small as can be."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import keras
import pytest

from benchmarks import tensorflow_step, tensorflow_teacher
from benchmarks.tensorflow_page import markdown
from benchmarks.tensorflow_sides import Case, Time
from benchmarks.tensorflow_step import CALLBACK, DISTILLER, FIT, HAND, HOOKS, MAKERS, PLAIN, check_losses

TINY = ["--rounds", "3", "--small-steps", "3", "--depths", "8", "8", "--size", "8", "--batch", "4", "--threads", "1"]
Times = dict[str, list[Time]]


class Recorder:
    """A side that keeps what it measured."""

    def __init__(self, side: Any, times: list[Time]) -> None:
        self._side, self._times = side, times
        self.first_loss, self.close = side.first_loss, side.close

    def __call__(self) -> Time:
        self._times.append(self._side())
        return self._times[-1]


def recording(maker: Callable[[Case], Any], times: list[Time]) -> Callable[[Case], Recorder]:
    return lambda case: Recorder(maker(case), times)


def small_network(depth: int, seed: int, *, size: int = 32, classes: int = 100) -> Any:
    """In a residual network's place, which takes seconds to trace: two stages of one convolution."""
    del depth
    keras.utils.set_random_seed(seed)
    inputs = x = keras.Input((size, size, 3))
    for stage in (1, 2):
        x = keras.layers.Conv2D(4, 3, 2, name=f"stage{stage}")(x)
    return keras.Model(inputs, keras.layers.Dense(classes)(keras.layers.GlobalAveragePooling2D()(x)))


def measured(case: str, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], Times]:
    """The figures of one case, and the times that they must come from."""
    times: Times = {name: [] for name in MAKERS}
    monkeypatch.setattr(tensorflow_step, "resnet", small_network)
    monkeypatch.setattr(tensorflow_step, "MAKERS", {name: recording(MAKERS[name], times[name]) for name in MAKERS})
    figures = tensorflow_step.measure(tensorflow_step.parser().parse_args([*TINY, "--cases", case]))
    return figures, {name: found[1:] for name, found in times.items()}  # the first round is not counted


@pytest.mark.parametrize(
    ("case", "sides"),
    [
        ("pair", {HAND, HOOKS, CALLBACK, DISTILLER}),
        ("pair_with_matcher", {HAND, HOOKS, CALLBACK}),
        ("small", {HAND, HOOKS, CALLBACK, FIT, PLAIN}),
    ],
)
def test_ratios_are_those_of_its_own_measurements(
    case: str, sides: set[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, times = measured(case, monkeypatch)
    found = figures["cases"][case]
    assert set(found["seconds"]) == sides
    assert all(len(times[name]) == (3 if name in sides else 0) for name in MAKERS)
    assert all(time.wall > 0 for name in sides for time in times[name])
    for one in found["ratios"]:
        pairs = list(zip(times[one["of"]], times[one["to"]], strict=True))
        assert one["ratio"] == statistics.median(mine.wall / theirs.wall for mine, theirs in pairs)
        assert one["processor_ratio"] == statistics.median(mine.processor / theirs.processor for mine, theirs in pairs)
        assert found["seconds"][one["of"]]["wall"] == statistics.median(mine.wall for mine, _ in pairs)
    assert capsys.readouterr().out == markdown(figures) + "\n"


def test_sides_of_another_loss_are_not_compared() -> None:
    assert check_losses({"one": 2.0, "other": 2.00001}) == 2.0
    with pytest.raises(ValueError) as error:
        check_losses({"one": 2.0, "other": 2.0001})
    assert str(error.value) == "other begins with the loss 2.0001, and one with 2.0"


def test_table() -> None:
    ratio = {"of": HOOKS, "to": HAND, "ratio": 1.2, "quartiles": [1.1, 1.3], "processor_ratio": 1.25, "extra_us": 45.6}
    case = {"seconds": {HOOKS: {"wall": 0.006}, HAND: {"wall": 0.005}}, "ratios": [ratio]}
    row = (
        "| logits | tf.function with hooks | 6.00 | tf.function by hand | 5.00 | 1.200 | 1.100 to 1.300 | 1.250 | 46 |"
    )
    assert markdown({"cases": {"logits": case}}).splitlines()[2:] == [row]


def test_the_ways_of_a_teacher(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tensorflow_teacher, "resnet", small_network)
    found = tensorflow_teacher.main(["--quick"])
    assert len(found) == 2
    for rows in found.values():
        assert rows[tensorflow_teacher.PLAIN][1] == 1.0 and all(time > 0 < ratio for time, ratio in rows.values())
    assert capsys.readouterr().out.count("| warm store, with the loss |") == 2
