"""What `auto` chooses for a teacher in Keras, and what Keras has not."""

from __future__ import annotations

import logging
import re
from typing import Any

import keras
import pytest

from kdhooks import Distillation
from kdhooks.errors import ConfigError
from kdhooks.speed import Choice
from kdhooks_tf import DistillationCallback
from tests.tf import callback_models as fitted
from tests.tf.loop_models import Loop, batches, classifier, kd_conf


def conf(*, weights: Any = (0.5, 0.5), **teacher: Any) -> dict[str, Any]:
    settings = kd_conf(weights)
    settings["distillation"]["teacher"] = teacher
    return settings


# ---- auto ------------------------------------------------------------------------------------------


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What the clock shows in turn: fp32 takes 2 seconds, bf16 one."""
    shown: list[float] = []
    now = 0.0
    for _ in range(6):
        for took in (2.0, 1.0):
            shown += [now, now + took] if _ else [now]
            now += took
    monkeypatch.setattr("kdhooks_tf.teacher_choice.perf_counter", lambda: shown.pop(0) if shown else 0.0)
    return shown


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_auto_takes_the_fastest_and_says_so_once(
    mode: str, seconds: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    student, teacher = classifier(1), classifier(2, 16)
    with (
        caplog.at_level(logging.INFO, "kdhooks"),
        Distillation(conf(precision="auto"), student_model=student, teacher_model=teacher) as distiller,
    ):
        distiller.train_dataloader = batches(2)
        Loop(student, mode, distiller=distiller).run(3)
        teachers = distiller._run.teachers  # type: ignore[union-attr]
        assert teachers["teacher"].choice == Choice("bf16")
        assert {layer.dtype_policy.name for layer in teacher.layers} == {"mixed_bfloat16"}
    name = "the first batch" if mode == "eager" else "the first batch of the training data"
    said = [record.getMessage() for record in caplog.records if record.name == "kdhooks"][
        :2
    ]  # TensorFlow may speak too
    assert said[0] == (f"the teacher runs in bf16, the fastest in 5 forwards of {name}: fp32 2000.0 ms, bf16 1000.0 ms")
    assert re.fullmatch(
        rf"the teacher in bf16 and in fp32, on {name}: logits differ by \S+ at most and \S+ on average, and \S+% have "
        "the same largest class",
        said[1],
    )
    assert sum("forwards" in record.getMessage() for record in caplog.records) == 1


def test_auto_in_a_fit_is_timed_on_a_made_up_batch(seconds: list[float], caplog: pytest.LogCaptureFixture) -> None:
    settings = fitted.logits()
    settings["distillation"]["teacher"] = {"precision": "auto"}
    model, teacher = fitted.compiled(fitted.student()), fitted.teacher()
    with caplog.at_level(logging.INFO, "kdhooks"):
        fitted.fit(model, DistillationCallback(fitted.distiller(settings, teacher_model=teacher)))
    assert caplog.records[0].getMessage() == (
        "the teacher runs in bf16, the fastest in 5 forwards of a made-up batch: fp32 2000.0 ms, bf16 1000.0 ms"
    )
    assert {layer.dtype_policy.name for layer in teacher.layers} == {"float32"}


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_a_resumed_run_does_not_choose_again(mode: str, seconds: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with Distillation(conf(precision="auto"), student_model=classifier(1), teacher_model=classifier(2)) as distiller:
        Loop(distiller.student_model, mode, distiller=distiller).run(2)
        state = distiller.state_dict()
    caplog.clear()
    resumed = Distillation(conf(precision="auto"), student_model=classifier(1), teacher_model=classifier(2))
    resumed.load_state_dict(state)
    with caplog.at_level(logging.INFO, "kdhooks"), resumed:
        Loop(resumed.student_model, mode, distiller=resumed).run(2)
        assert resumed._run.teachers["teacher"].choice == Choice("bf16")  # type: ignore[union-attr]
    assert not [record for record in caplog.records if "forwards" in record.getMessage()]


# ---- what Keras has not ----------------------------------------------------------------------------


def channels_first() -> Any:
    layers = [keras.Input([3, 8, 8]), keras.layers.Conv2D(2, 3, data_format="channels_first", name="convolution")]
    return keras.Sequential(layers)


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (
            {"ipex": True},
            "<dict>: distillation.teacher.ipex: Intel's extension is for PyTorch, and this is a TensorFlow model\n"
            "  Leave it out: TensorFlow has oneDNN inside of it.",
        ),
        (
            {"channels_last": True},
            "<dict>: distillation.teacher.channels_last: the teacher Sequential has layers of "
            "data_format='channels_first', 'convolution' the first of them, and Keras lays out no model anew\n"
            "  Make the model with data_format='channels_last'.",
        ),
        (
            {"precision": "auto", "ema": 0.9},
            "<dict>: distillation.teacher.precision: auto is for a teacher that stays as it is, and with ema it is an "
            "average of the student\n  Write fp32, bf16 or fp16.",
        ),
    ],
)
def test_what_keras_has_not_is_an_error_at_its_line(teacher: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Distillation(conf(**teacher), student_model=classifier(1), teacher_model=channels_first()).on_train_begin()
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("train", "message"),
    [
        (
            {"ipex": True},
            "<dict>: distillation.train.ipex: Intel's extension is for PyTorch, and this is a TensorFlow model\n"
            "  Leave it out: TensorFlow has oneDNN inside of it.",
        ),
        (
            {"precision": "auto"},
            "<dict>: distillation.train.precision: auto is for PyTorch, and this is a TensorFlow model\n"
            "  Write fp32, bf16 or fp16.",
        ),
    ],
)
def test_what_the_built_in_loop_has_not_is_an_error_at_its_line(train: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Distillation({"distillation": {"train": train}}, student_model=classifier(1), teacher_model=classifier(2)).fit()
    assert str(caught.value) == message


def test_channels_last_is_what_keras_has(caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.INFO, "kdhooks"),
        Distillation(conf(channels_last=True, ipex="auto"), student_model=classifier(1), teacher_model=classifier(2)),
    ):
        pass
    assert caplog.records[0].getMessage() == (
        "distillation.teacher.channels_last changes nothing in TensorFlow: maps lie as [N, H, W, C] there already"
    )
