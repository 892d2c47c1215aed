"""A run that was stopped and continued is the run that was never stopped, bit for bit."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from kdhooks import Distillation
from kdhooks.errors import CheckpointError
from tests.tf.fit_runs import batches, distillation, finish, killed_when_there_is_a_checkpoint, long_run, settings


def numbers(path: Path) -> list[Any]:
    with np.load(path) as file:
        return [file[name] for name in file.files]


def same(one: Path, other: Path) -> None:
    left, right = numbers(one), numbers(other)
    assert len(left) == len(right) > 10
    assert [np.array_equal(a, b) for a, b in zip(left, right, strict=True)] == [True] * len(left)


class Stopped(Exception):
    """What ends a run in a test."""


def stopped_at(distiller: Any, step: int) -> None:
    """Let a run fail after the optimizer's step in which a step of the loop lies."""

    def stop(subject: Any) -> None:
        if subject.step >= step:
            raise Stopped

    distiller.register_hook("on_step_end", stop)
    with pytest.raises(Stopped):
        distiller.fit()


@pytest.mark.parametrize("step", [8, 29, 43])
def test_a_run_that_broke_off_goes_on_bit_for_bit(step: int, tmp_path: Path) -> None:
    finish(long_run(tmp_path / "whole", end_epoch=3), tmp_path / "whole.npz")
    stopped_at(long_run(tmp_path / "two", end_epoch=3), step)
    np.random.default_rng(3)
    finish(long_run(tmp_path / "two", end_epoch=3), tmp_path / "two.npz")
    same(tmp_path / "whole.npz", tmp_path / "two.npz")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, 143)])
def test_signals_from_outside_leave_a_checkpoint_that_can_be_continued(
    number: signal.Signals, code: int, tmp_path: Path
) -> None:
    assert killed_when_there_is_a_checkpoint(tmp_path, number) == code
    distiller = long_run(tmp_path, end_epoch=200)
    steps: list[int] = []
    distiller.register_hook("on_step_end", lambda subject: steps.append(subject.step))
    distiller.register_hook("on_step_end", _interrupt)
    with pytest.raises(KeyboardInterrupt):
        distiller.fit()
    assert len(steps) == 1
    assert steps[0] > 3
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def _interrupt(subject: Any) -> None:
    signal.raise_signal(signal.SIGINT)


def test_a_users_loader_is_replayed(tmp_path: Path) -> None:
    results = []
    for stop in (False, True):
        folder = tmp_path / str(stop)
        conf = settings(folder, optimizer={"Adam": {"learning_rate": 0.01}}, checkpoint_steps=2, end_epoch=3)
        conf["tuning"]["workspace"]["resume"] = True
        if stop:
            stopped_at(distillation(conf, Noisy()), 9)
        distiller = distillation(conf, Noisy())
        distiller.fit()
        results.append(distiller.student_model.get_weights())
    assert all(np.array_equal(one, other) for one, other in zip(*results, strict=True))


class Noisy:
    """Batches with noise of NumPy's global generator, as many people's augmentations are."""

    def __len__(self) -> int:
        return 6

    def __iter__(self) -> Any:
        for x, y in batches():
            yield x + 0.1 * np.random.normal(size=x.shape).astype(np.float32), y


def with_matchers() -> dict[str, Any]:
    pairs = {"layer_mappings": [["inner", "outer"]], "loss_types": ["MSE"], "loss_weights": [1.0]}
    return {"train": {"criterion": {"IntermediateLayersKnowledgeDistillationLoss": pairs}}}


def with_an_average() -> dict[str, Any]:
    weights = [1.0, {"linear": {"from": 1, "to": 0, "steps": 10}}]
    return {"train": {"criterion": {"KnowledgeDistillationLoss": {"loss_weights": weights}}}, "teacher": {"ema": 0.9}}


def layered(hidden: int, name: str) -> Any:
    layers = [keras.Input((6,)), keras.layers.Dense(hidden, name=name), keras.layers.Dense(4)]
    return keras.Sequential(layers)


@pytest.mark.parametrize("parts", [with_matchers, with_an_average])
def test_matchers_and_averages_go_on_as_well(parts: Any, tmp_path: Path) -> None:
    results = []
    for name, stops in (("whole", [3]), ("two", [2, 3])):
        for end in stops:
            keras.utils.set_random_seed(4)
            conf = settings(tmp_path / name, end_epoch=end, optimizer={"Adam": {"lr": 0.05}})
            conf["distillation"]["train"] |= parts()["train"]
            conf["distillation"]["teacher"] = parts().get("teacher", {})
            conf["tuning"]["workspace"]["resume"] = True
            distiller = Distillation(conf, student_model=layered(5, "inner"))
            if parts is with_matchers:
                distiller.teacher_model = layered(7, "outer")
            distiller.train_dataloader = batches()
            distiller.fit()
        losses = [record["losses"] for record in distiller.history]
        results.append((losses, [weight.tolist() for weight in distiller.student_model.get_weights()]))
    assert results[0] == results[1]
    assert len(results[0][0]) == 3


def saved(folder: Path, **train: Any) -> Path:
    distiller = distillation(settings(folder, **train), batches())
    distiller.fit()
    return folder / "checkpoint.npz"


def small(width: int = 8) -> Any:
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(width), keras.layers.Dense(4)])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"student": small},
         "the checkpoint {path} belongs to another student: it has no '2 kernel' and 1 more; it has '2 gamma' "
         "and 6 more, which the student has not; '0 kernel' is of shape [6, 16] there and [6, 8] here"),
        ({"optimizer": {"Adam": {}}}, "the checkpoint {path} belongs to the optimizer SGD, and this run has Adam"),
        ({"optimizer": {"SGD": {"momentum": 0.9}}},
         "the checkpoint {path} belongs to an optimizer with 2 variables, and this run's has 8"),
        ({"scheduler": {"CosineAnnealing": {}}},
         "the checkpoint belongs to a run with another learning-rate scheduler"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_run_changes_nothing(change: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    conf = settings(tmp_path, **{key: value for key, value in change.items() if key != "student"})
    conf["tuning"]["workspace"]["resume"] = True
    distiller = distillation(conf, batches())
    if "student" in change:
        distiller.student_model = change["student"]()
    before = distiller.student_model.get_weights()
    with pytest.raises(CheckpointError) as caught:
        distiller.fit()
    assert str(caught.value) == text.format(path=path)
    assert all(np.array_equal(a, b) for a, b in zip(before, distiller.student_model.get_weights(), strict=True))


def test_without_a_checkpoint_the_run_begins_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    conf = settings(tmp_path, end_epoch=1)
    conf["tuning"]["workspace"]["resume"] = True
    with caplog.at_level("INFO", logger="kdhooks"):
        distillation(conf, batches()).fit()
    path = tmp_path / "checkpoint.npz"
    assert caplog.records[0].getMessage() == f"there is no checkpoint at {path} yet: the run begins anew"
