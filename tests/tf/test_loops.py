"""Bare loops with a tape: the same numbers eagerly, in a `tf.function` and compiled, traced once, and undone."""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.errors import ConfigError, ModelError, UsageError
from tests.tf.loop_models import MODES, Loop, batches, classifier, cross_entropy, kd_conf, same_weights, surface

RAMP = {"linear": {"from": 0.0, "to": 1.0, "steps": 6}}
SCHEDULES: dict[str, Any] = {
    "linear": RAMP,
    "cosine": {"cosine": {"from": 1.0, "to": 0.0, "steps": 5, "start": 2}},
    "exponential": {"exponential": {"from": 1.0, "to": 0.01, "steps": 7}},
    "warmup": {"warmup": {"to": 0.7, "steps": 4}},
    "step": {"step": {"values": {0: 1.0, 3: 0.5, 6: 0.0, 8: 0.25}}},
}


def distilled(mode: str, conf: Any, steps: int = 10, teachers: Any = None, **loop: Any) -> tuple[Any, ...]:
    """Losses, components of the last step, the epoch's record, traces, student."""
    student = classifier(1, dropout=0.0)
    distiller = Distillation(conf, student_model=student, teacher_model=teachers or classifier(2, 16))
    with distiller:
        running = Loop(student, mode, distiller=distiller, **loop)
        losses = running.run(steps)
        components = distiller.losses
        distiller.on_epoch_end()
    assert distiller.step == steps
    return losses, components, distiller.history[0], running.traces, student


@pytest.mark.parametrize("schedule", sorted(SCHEDULES))
def test_a_schedule_gives_the_same_numbers_in_every_mode_and_is_traced_once(schedule: str) -> None:
    conf = kd_conf([{"linear": {"from": 1.0, "to": 0.5, "steps": 6}}, SCHEDULES[schedule]])
    losses, components, record, _, student = distilled("eager", conf)
    for mode in ("graph", "compiled") if schedule == "step" else ("graph",):
        others, last, other, traces, twin = distilled(mode, conf)
        assert traces == 1
        np.testing.assert_allclose(others, losses, rtol=2e-5)
        assert sorted(last) == sorted(components)
        assert other["losses"] == pytest.approx(record["losses"], rel=2e-5)
        assert other["steps"] == record["steps"] == 10
        for mine, theirs in zip(student.weights, twin.weights, strict=True):
            np.testing.assert_allclose(mine.numpy(), theirs.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_the_temperature_may_be_a_schedule(mode: str) -> None:
    conf = kd_conf([0.0, 1.0], temperature={"step": {"values": {0: 2.0, 2: 4.0}}})
    losses, _, _, traces, _ = distilled(mode, conf, 4)
    assert traces == (4 if mode == "eager" else 1)
    two, four = (distilled("eager", kd_conf([0.0, 1.0], temperature=one), 4)[0] for one in (2.0, 4.0))
    assert losses[:2] == pytest.approx(two[:2], rel=1e-5)
    assert losses[2] != pytest.approx(two[2], rel=1e-3) and losses[0] != pytest.approx(four[0], rel=1e-3)


@pytest.mark.parametrize("mode", ["graph", "compiled"])
def test_a_python_function_as_a_schedule_is_refused_in_a_graph(mode: str) -> None:
    def falling(step: int) -> float:
        return 1 / (step + 1)

    conf = Distillation(kd_conf()).conf
    conf.distillation.train.criterion.KnowledgeDistillationLoss.loss_weights = [1.0, falling]
    student = classifier(1)
    with Distillation(conf, student_model=student, teacher_model=classifier(2)) as distiller:
        assert len(Loop(student, "eager", distiller=distiller).run(2)) == 2
        with pytest.raises(UsageError) as caught:
            Loop(student, mode, distiller=distiller).run(1)
    assert str(caught.value) == (
        f"the schedule {falling.__qualname__} is a Python function, which a tf.function calls only once, "
        "when it is traced. Write it as linear, cosine, exponential, warmup or piecewise, or run the step eagerly"
    )


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("weights", [[1.0, 0.0], [1.0, {"linear": {"from": 0.0, "to": 0.0, "steps": 5}}]])
def test_zero_weights_train_bit_for_bit_as_without_kdhooks(mode: str, weights: Any) -> None:
    plain = classifier(1)
    keras.utils.set_random_seed(5)
    losses = Loop(plain, mode).run()
    student, teacher = classifier(1), classifier(2)
    keras.utils.set_random_seed(5)
    with Distillation(kd_conf(weights), student_model=student, teacher_model=teacher) as distiller:
        assert Loop(student, mode, distiller=distiller).run() == losses
    assert same_weights(student, plain)


def test_a_weight_of_zero_returns_the_very_tensor() -> None:
    student = classifier(1)
    x, y = batches()[0]
    with Distillation(kd_conf([1.0, 0.0]), student_model=student, teacher_model=classifier(2)) as distiller:
        loss = cross_entropy(y, student(x))
        assert distiller.on_after_compute_loss(x, student(x), loss) is loss

        @tf.function
        def step(x: Any, y: Any) -> Any:
            loss = cross_entropy(y, student(x))
            assert distiller.on_after_compute_loss(x, student(x), loss) is loss
            return loss

        step(x, y)
        assert sorted(distiller.losses) == ["CE", "total"]


def test_a_schedule_at_zero_keeps_an_infinite_teacher_out(infinite: Any) -> None:
    conf = kd_conf([1.0, {"step": {"values": {0: 0.0, 3: 1.0}}}])
    for mode in ("eager", "graph"):
        losses, components, _, _, student = distilled(mode, conf, 3, infinite)
        assert np.isfinite(losses).all() and sorted(components) == ["CE", "total"]
        assert all(np.isfinite(weight.numpy()).all() for weight in student.weights)


@pytest.fixture
def infinite() -> Any:
    teacher = classifier(2)
    teacher.layers[-1].bias.assign([np.inf] * 4)
    return teacher


@pytest.mark.parametrize("mode", MODES)
def test_teacher_outputs_may_be_handed_in(mode: str) -> None:
    teacher, student = classifier(2, 16), classifier(1, dropout=0.0)
    expected = distilled("eager", kd_conf(), 3)[0]
    with Distillation(kd_conf(), student_model=student) as distiller:
        losses = Loop(student, mode, distiller=distiller, hand_in=lambda x: teacher(x, training=False)).run(3)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


@pytest.mark.parametrize("combine", ["losses", "logits", "probabilities"])
def test_several_teachers_are_weighed_alike_in_every_mode(combine: str) -> None:
    shares = {"small": {"linear": {"from": 0.0, "to": 1.0, "steps": 3}}, "large": 2.0}
    conf = kd_conf([0.5, 0.5], teacher_weights=shares, combine=combine)

    def teachers() -> Any:
        return {"small": classifier(3), "large": classifier(4, 16)}

    losses, components, *_ = distilled("eager", conf, 4, teachers())
    others, last, *_ = distilled("compiled" if combine == "losses" else "graph", conf, 4, teachers())
    np.testing.assert_allclose(others, losses, rtol=1e-4)
    assert last == pytest.approx(components, rel=1e-4)


def test_the_numbers_are_there_after_steps_in_a_graph() -> None:
    student = classifier(1)
    distiller = Distillation(kd_conf(), student_model=student, teacher_model=classifier(2))
    data = tf.data.Dataset.from_tensors(batches()[0]).repeat()
    with distiller:
        loop = Loop(student, "eager", distiller=distiller)

        @tf.function
        def several(iterator: Any) -> Any:
            for _ in tf.range(5):  # as steps_per_execution does
                loop.step(*next(iterator))

        several(iter(data))
        assert (loop.traces, distiller.step) == (1, 5)
        several(iter(data))
        assert distiller.step == 10
        assert distiller.losses["total"] == pytest.approx(
            0.5 * distiller.losses["CE"] + 0.5 * distiller.losses["KL"], rel=1e-5
        )
        distiller.on_epoch_end()
        loop.run(1)  # an eager step between counts as well
        assert distiller.step == 11
        distiller.on_epoch_end()
    assert [record["steps"] for record in distiller.history] == [10, 1]
    assert distiller.history[1]["losses"] == pytest.approx(distiller.losses)


def test_numbers_cant_be_read_while_a_function_is_traced() -> None:
    student = classifier(1)
    with Distillation(kd_conf(), student_model=student, teacher_model=classifier(2)) as distiller:
        loop = Loop(student, "eager", distiller=distiller)

        def reading(name: str) -> Any:
            loop.step(*batches()[0])
            return getattr(distiller, name)

        for name, message in {
            "losses": "the losses can't be read inside of a tf.function: read them afterwards",
            "step": "the number of the step can't be read inside of a tf.function: read it afterwards",
        }.items():
            with pytest.raises(UsageError) as caught:
                tf.function(reading, autograph=False)(name)
            assert str(caught.value) == message
        message = (
            "on_step_begin(3) inside of a tf.function would set this number at every step, since Python code runs "
            "there only once: call it outside, or hand in a tensor"
        )
        with pytest.raises(UsageError, match=re.escape(message)):
            tf.function(distiller.on_step_begin)(3)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_on_step_begin_sets_the_number(mode: str) -> None:
    conf = kd_conf([0.0, {"step": {"values": {0: 1.0, 100: 3.0}}}])
    student = classifier(1, dropout=0.0)
    with Distillation(conf, student_model=student, teacher_model=classifier(2)) as distiller:
        x, y = batches()[0]

        def step(number: Any) -> Any:
            distiller.on_step_begin(number)
            return distiller.on_after_compute_loss(x, student(x), cross_entropy(y, student(x)))

        run = tf.function(step) if mode == "graph" else step
        first, later = (float(run(tf.constant(number, tf.int64))) for number in (0, 100))
        assert later == pytest.approx(3 * first) and distiller.step == 101
        distiller.on_step_begin(0)
        assert distiller.step == 0


def test_a_trace_of_other_shapes_makes_no_variables() -> None:
    student = classifier(1)
    with Distillation(kd_conf([1.0, RAMP]), student_model=student, teacher_model=classifier(2)) as distiller:
        loop = Loop(student, "graph", distiller=distiller)
        for size in (8, 4):
            loop.step(*batches(size=size)[0])
        distiller.on_train_begin()  # a new run, in a function that has been called before
        loop.step(*batches(size=2)[0])
        assert distiller.step == 1 and sorted(distiller.losses) == ["CE", "total"]


@pytest.mark.parametrize("mode", ["graph", "compiled"])
def test_a_term_can_be_balanced_in_a_graph(mode: str) -> None:
    student, teacher = classifier(1, dropout=0.0), classifier(2)
    x, y = batches()[0]
    with Distillation(
        kd_conf([0.0, 1.0], balance="gradient"), student_model=student, teacher_model=teacher
    ) as distiller:

        @tf.function(jit_compile=mode == "compiled")
        def gradients(x: Any, y: Any) -> Any:
            with tf.GradientTape(persistent=True) as tape:
                output = student(x)
                own = cross_entropy(y, output)
                total = distiller.on_after_compute_loss(x, output, own)
            return tape.gradient(own, output), tape.gradient(total, output)

        own, balanced = gradients(x, y)
    assert float(tf.norm(balanced)) == pytest.approx(float(tf.norm(own)), rel=1e-5)


def test_balance_needs_a_graph() -> None:
    student = classifier(1)
    with (
        Distillation(kd_conf(balance="gradient"), student_model=student, teacher_model=classifier(2)) as distiller,
        pytest.raises(UsageError) as caught,
    ):
        Loop(student, distiller=distiller).run(1)
    assert str(caught.value) == (
        "balance: gradient needs the step inside of a tf.function, or model.fit: in eager mode TensorFlow does not "
        "keep what the loop's own loss was computed from"
    )


# ---- afterwards ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "graph"])
@pytest.mark.parametrize("how", ["end", "raises", "again"])
def test_nothing_is_left_on_the_models(mode: str, how: str) -> None:
    student, teacher = classifier(1), classifier(2)
    teacher.layers[0].trainable = False
    before = surface(student), surface(teacher)
    distiller = Distillation(kd_conf(), student_model=student, teacher_model=teacher)
    if how == "raises":
        with pytest.raises(KeyboardInterrupt), distiller:
            Loop(student, mode, distiller=distiller).run(1)
            raise KeyboardInterrupt
    else:
        for _ in range(1 if how == "end" else 2):
            distiller.on_train_begin()
            Loop(student, mode, distiller=distiller).run(2)
            assert (surface(student), surface(teacher)) == before
        distiller.on_train_end()
        distiller.on_train_end()
    assert (surface(student), surface(teacher)) == before
    with pytest.raises(UsageError, match=r"call on_train_begin\(\) before on_after_compute_loss\(\)"):
        Loop(student, "eager", distiller=distiller).run(1)


# ---- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_outputs_of_other_classes_are_named(mode: str) -> None:
    student = classifier(1)
    distiller = Distillation(kd_conf(), student_model=student, teacher_model=classifier(2, classes=5))
    with distiller, pytest.raises(ModelError) as caught:
        Loop(student, mode, distiller=distiller).run(1)
    assert str(caught.value) == (
        "the student's logits have shape [8, 4] and the teacher's [8, 5]; both need the same positions and the same "
        "classes in the same order"
    )


def test_a_loss_must_be_a_scalar_tensor() -> None:
    student = classifier(1)
    x, _ = batches()[0]
    with Distillation(kd_conf(), student_model=student, teacher_model=classifier(2)) as distiller:
        for loss, message in (
            (1.0, "student_loss must be a scalar tensor, not float"),
            (tf.ones([8]), "student_loss must be a scalar tensor, not one of shape [8]: take its mean"),
        ):
            with pytest.raises(ModelError) as caught:
                distiller.on_after_compute_loss(x, student(x), loss)
            assert str(caught.value) == message


def test_a_keras_model_on_another_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ModelError) as caught:
        Distillation(student_model=classifier(1))
    assert str(caught.value) == (
        "Sequential is a Keras model on the backend 'jax': kdhooks distils Keras models on TensorFlow. Set the "
        "environment variable KERAS_BACKEND=tensorflow before Keras is imported"
    )


def test_the_yaml_may_name_the_framework() -> None:
    distiller = Distillation({"model": {"framework": "tensorflow"}, **kd_conf(from_logits=False)})
    assert distiller.backend.name == "tensorflow"
    criterion = distiller.backend.criteria(distiller.conf)[0]
    assert (criterion.from_logits, criterion.teacher_from_logits) == (False, False)  # type: ignore[attr-defined]
    with pytest.raises(ConfigError) as caught:
        Distillation({"model": {"framework": "pytorch"}}, student_model=classifier(1))
    assert str(caught.value) == (
        "<dict>: model.framework: the student is a tensorflow model, Sequential\n"
        "  Write framework: tensorflow, or leave it out."
    )
