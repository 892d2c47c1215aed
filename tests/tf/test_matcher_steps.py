"""When matchers step: not where a schedule's weight is 0, with the student in fit(), before the first loss known."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks_tf import DistillationCallback, IntermediateLayersKnowledgeDistillationLoss, KnowledgeDistillationLoss
from tests.tf.feature_models import (
    CROSS_ENTROPY,
    all_equal,
    arrays,
    batches,
    criterion,
    distillation,
    functional,
    made,
    models,
    stepping,
    train,
)

OFF_AND_ON = {"piecewise": {"values": {0: 1.0, 2: 0.0, 4: 1.0}}}
OPTIMIZERS: dict[str, Any] = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01), initial_scale=8.0),
}


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_where_the_weight_is_0_what_a_pair_owns_stays_as_it_is(name: str, mode: str) -> None:
    seen: dict[str, Any] = {}
    for way in ("eager", mode):
        student, teacher = models()
        optimizer = OPTIMIZERS[name]()
        distiller = distillation(
            student,
            teacher,
            optimizer,
            layer_mappings=[["first"], ["block.layer"]],
            loss_weights=[1.0, OFF_AND_ON],
            feature_matchers="linear",
        )
        optimizer.build(student.trainable_variables)
        seen[way] = []
        with distiller:
            step = stepping(distiller, student, optimizer, way)
            for x, y in [*batches(), *batches()][:6]:
                step(x, y)
                seen[way].append([arrays(matcher.variables) for matcher in distiller.criterion.feature_matchers])
            groups = distiller.criterion.training.groups
            assert [(len(variables), int(one.iterations)) for variables, one in groups] == [(2, 6), (2, 4)]
    always, sometimes = zip(*seen[mode], strict=True)
    assert all_equal(sometimes[1], sometimes[2]) and all_equal(sometimes[2], sometimes[3])
    assert not all_equal(sometimes[3], sometimes[4]) and not all_equal(sometimes[0], sometimes[1])
    assert not all_equal(always[1], always[2]) and not all_equal(always[2], always[3])
    for one, other in zip(seen["eager"], seen[mode], strict=True):
        for mine, theirs in zip(itertools.chain(*one), itertools.chain(*other), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=2e-4, atol=2e-5)


def test_two_devices_leave_the_step_out_together() -> None:
    command = [sys.executable, "-m", "tests.tf.mirrored_schedules"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["moved", "stayed", "stayed", "moved", "4", "6"]


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
def test_a_float64_model_with_a_float32_loss(mode: str) -> None:
    def model(width: int) -> Any:
        x = keras.Input((6,), dtype="float64")
        hidden = keras.layers.Dense(width, name="first", dtype="float64")(x)
        return keras.Model(x, keras.layers.Dense(4, name="head", dtype="float64")(hidden))

    student, teacher = made(model, 8, 1), made(model, 12, 2)
    optimizer = keras.optimizers.SGD(0.05)
    ramp = {"linear": {"from": 0.0, "to": 1.0, "steps": 4}}
    for criteria in (
        KnowledgeDistillationLoss(2.0, loss_weights=[0.5, ramp]),
        criterion(loss_weights=[ramp, 0.5]),
        [KnowledgeDistillationLoss(2.0), criterion(add_origin_loss=False)],
    ):
        distiller = Distillation(student_model=student, teacher_model=teacher)
        distiller.criterion, distiller.optimizer = criteria, optimizer
        with distiller:
            step = stepping(distiller, student, optimizer, mode)
            for x, y in batches():
                total = step(tf.cast(x, tf.float64), y)[0]
                assert total.dtype == tf.float32 and np.isfinite(float(total))
            parameters = list(distiller.parameters())
            assert {variable.dtype for variable in parameters} <= {"float64"}
            assert distiller.losses["total"] == pytest.approx(float(total), rel=1e-6)


def test_parameters_are_known_from_the_first_batch_on() -> None:
    x = keras.Input((6,))
    hidden = keras.layers.BatchNormalization(name="norm")(keras.layers.Dense(8, name="first")(x))
    student = keras.Model(x, keras.layers.Dense(4, name="head")(keras.layers.Dropout(0.5)(hidden)))
    teacher = made(functional, 12, 2)
    data = [(one.numpy(), two.numpy()) for one, two in batches()]
    begun, optimizer = arrays(student.variables), keras.optimizers.SGD(0.1)
    twins = []
    for ahead in (True, False):
        distiller = distillation(student, teacher, optimizer)
        distiller.on_train_begin(data if ahead else None)
        if ahead:
            parameters = list(distiller.parameters())
            assert [list(one.shape) for one in parameters] == [[8, 12], [12]]
            assert all_equal(begun, arrays(student.variables))  # the look moved no statistics
        with tf.GradientTape():
            output = student(data[0][0], training=True)
            distiller.on_after_compute_loss(data[0][0], output, tf.zeros([]))
        twins.append(arrays(list(distiller.parameters())))
        if ahead:
            assert all(map(lambda a, b: a is b, parameters, distiller.parameters()))
            assert len(distiller.criterion.training.groups) == 1
        distiller.on_train_end()
        student.get_layer("norm").set_weights(begun[2:6])
    assert [one.shape for one in twins[0]] == [one.shape for one in twins[1]]


def test_without_data_the_parameters_are_told_to_come_later(caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = models()
    with distillation(student, teacher, keras.optimizers.SGD(0.1)) as distiller:
        assert list(distiller.parameters()) == []
    assert caplog.messages == [
        "the feature matchers are made at the first loss, so they have no parameters yet: give on_train_begin a "
        "dataloader to have them now"
    ]


def fitted(folder: Path, data: list[Any], **options: Any) -> tuple[Any, list[Any], Any]:
    student, teacher = made(functional, 8, 1), made(functional, 12, 2)
    layers = {"layer_mappings": [["first"], ["head"]], "loss_weights": [1.0, 0.5], "add_origin_loss": True}
    conf: Any = {
        "distillation": {
            "train": {
                "end_epoch": 1,
                "optimizer": {"SGD": {"learning_rate": 0.05, "momentum": 0.9}},
                "criterion": {"IntermediateLayersKnowledgeDistillationLoss": layers},
                **options,
            }
        },
        "tuning": {"workspace": {"path": str(folder)}, "random_seed": 5},
    }
    distiller = Distillation(conf, student_model=student, teacher_model=teacher)
    distiller.train_dataloader = data
    held: list[Any] = []
    distiller.register_hook("on_train_end", lambda one: held.append(one.criterion.training))
    distiller.fit()
    ((variables, optimizer),) = held[0].groups
    return arrays(student.weights), arrays(variables), optimizer


@pytest.mark.parametrize("mode", ["eager", "auto"])
def test_in_fit_matchers_step_with_the_student(mode: str, tmp_path: Path) -> None:
    """Two batches of four, added up, are one of eight: for matchers too, and clipping is the student's alone."""
    whole = [(x.numpy(), y.numpy()) for x, y in batches(4)]
    parts = [(x[at : at + 4], y[at : at + 4]) for x, y in whole for at in (0, 4)]
    eager = {"execution_mode": "eager"} if mode == "eager" else {}
    for options in (eager, {**eager, "gradient_clipping": 0.05}):
        student, matchers, optimizer = fitted(tmp_path / "one", whole, **options)
        summed, together, other = fitted(tmp_path / "two", parts, gradient_accumulation=2, **options)
        assert int(optimizer.iterations) == int(other.iterations) == 4
        for one, two in zip([*student, *matchers], [*summed, *together], strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # of Keras' own callback
def test_mixed_float16_with_a_plateau_in_keras_fit() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        student, teacher = made(functional, 8, 1), made(functional, 12, 2)
    finally:
        keras.config.set_dtype_policy(before)
    student.compile(keras.optimizers.Adam(0.01), CROSS_ENTROPY)
    assert type(student.optimizer).__name__ == "LossScaleOptimizer"
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(48, 6)).astype("float32"), generator.integers(4, size=48)
    distiller = Distillation(student_model=student, teacher_model=teacher)
    distiller.criterion = IntermediateLayersKnowledgeDistillationLoss(
        [["first"]], loss_weights=[1.0], add_origin_loss=True
    )
    weights: list[Any] = []

    class Look(keras.callbacks.Callback):  # type: ignore[misc]  # Keras ships no types
        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            weights.append(arrays(list(distiller.parameters())))

    plateau = keras.callbacks.ReduceLROnPlateau("loss", factor=1e-6, patience=1, min_delta=1e9)
    callbacks = [DistillationCallback(distiller), plateau, Look()]
    student.fit(x, y, batch_size=16, epochs=4, verbose=0, callbacks=callbacks)
    moved = [float(np.abs(one[0] - two[0]).max()) for one, two in itertools.pairwise(weights)]
    assert weights[0][0].dtype == np.float32 and moved[0] > 1e-3
    assert moved[1] < 1e-6 > moved[2]  # the rate fell behind the second epoch, for the matcher too
    assert float(student.optimizer.learning_rate) < 1e-9


def test_a_pair_with_a_schedule_resumes_with_its_own_optimizer() -> None:
    student, teacher = models()
    options = {"layer_mappings": [["first"], ["block.layer"]], "loss_weights": [1.0, OFF_AND_ON]}
    optimizer = keras.optimizers.Adam(0.01)
    distiller = distillation(student, teacher, optimizer, **options)
    with distiller:
        train(distiller, stepping(distiller, student, optimizer, "graph"), 3)
        state, found = distiller.state_dict(), arrays(list(distiller.parameters()))
    again = distillation(student, teacher, optimizer, **options)
    again.load_state_dict(state)
    with again:
        assert all_equal(found, arrays(list(again.parameters())))
        groups = again.criterion.training.groups
        assert [(len(variables), int(one.iterations)) for variables, one in groups] == [(2, 3), (2, 2)]
