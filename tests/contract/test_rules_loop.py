"""Rules 1, 2 and 8 in every framework: the bare loop, weights of zero, and steps that wait for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from kdhooks import Distillation
from kdhooks.errors import UsageError
from tests.contract.frameworks import Framework, kd_conf, pair_conf, same

RAMP = {"linear": {"from": 0.0, "to": 1.0, "steps": 10}}


def distiller_of(framework: Framework, conf: Any, *, width: int = 16, **student: Any) -> tuple[Any, Any]:
    student = framework.classifier(1, **student)
    return Distillation(conf, student_model=student, teacher_model=framework.classifier(2, width)), student


# ---- 1. a bare loop --------------------------------------------------------------------------------


def test_the_hooks_work_without_fit(framework: Framework) -> None:
    distiller, student = distiller_of(framework, kd_conf((0.3, 0.7)), dropout=0.0)
    plain = framework.classifier(1, dropout=0.0)
    alone = framework.train(plain)
    distiller.on_train_begin()
    losses = framework.train(student, distiller=distiller)
    found = distiller.losses
    distiller.on_epoch_end()
    distiller.on_train_end()
    assert losses != alone and not same(framework.weights(student), framework.weights(plain))
    assert list(found) == ["CE", "KL", "total"]
    assert found["total"] == pytest.approx(0.3 * found["CE"] + 0.7 * found["KL"], rel=1e-5)
    assert found["total"] == pytest.approx(losses[-1], rel=1e-6)
    assert (distiller.step, distiller.history[0]["steps"]) == (10, 10)
    assert distiller.history[0]["losses"]["total"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_second_on_train_begin_starts_anew(framework: Framework) -> None:
    distiller, student = distiller_of(framework, kd_conf((1.0, RAMP)))
    for _ in range(2):
        distiller.on_train_begin()
        assert (distiller.step, distiller.epoch, distiller.losses, list(distiller.history)) == (0, 0, {}, [])
        framework.train(student, distiller=distiller, steps=3)
        distiller.on_epoch_end()
        assert (distiller.step, distiller.epoch, len(distiller.history)) == (3, 1, 1)
    distiller.on_train_end()


def test_the_first_of_loss_types_is_only_a_label(framework: Framework) -> None:
    """Whatever it names, the loop's own loss is what counts, and is not computed again."""
    found = []
    for label in ("CE", "MSE", "BCE"):
        distiller, student = distiller_of(framework, kd_conf(loss_types=[label, "KL"]), dropout=0.0)
        with distiller:
            found.append(framework.train(student, distiller=distiller, steps=2))
            assert list(distiller.losses) == [label, "KL", "total"]
    assert found[0] == found[1] == found[2]


def weight_of(framework: Framework, distiller: Any, student: Any) -> float:
    framework.total(distiller, student)
    losses = distiller.losses
    return round((losses["total"] - losses["CE"]) / losses["KL"], 4) if "KL" in losses else 0.0


def test_schedules_count_losses_or_the_number_of_on_step_begin(framework: Framework) -> None:
    distiller, student = distiller_of(framework, kd_conf((1.0, RAMP)))
    with distiller:
        assert [weight_of(framework, distiller, student) for _ in range(3)] == [0.0, 0.1, 0.2]
        distiller.on_step_begin(7)
        assert (weight_of(framework, distiller, student), distiller.step) == (0.7, 8)
        assert weight_of(framework, distiller, student) == 0.8


@pytest.mark.parametrize(
    "event", ["on_epoch_begin", "on_step_begin", "on_after_compute_loss", "on_step_end", "on_epoch_end"]
)
def test_events_outside_of_a_run_say_what_is_missing(framework: Framework, event: str) -> None:
    distiller, student = distiller_of(framework, kd_conf())
    arguments = {"on_epoch_begin": [0], "on_step_begin": [0], "on_after_compute_loss": [1, 2, 3]}.get(event, [])
    for _ in range(2):
        with pytest.raises(UsageError) as caught:
            getattr(distiller, event)(*arguments)
        assert str(caught.value) == f"call on_train_begin() before {event}()"
        with distiller:
            framework.train(student, distiller=distiller, steps=1)


# ---- 2. weights of zero ----------------------------------------------------------------------------

NOTHING = {
    "logits": kd_conf((1.0, 0.0)),
    "several terms": kd_conf((1, 0, 0), loss_types=["CE", "KL", "MSE"]),
    "schedules that stay": kd_conf(({"linear": {"from": 1, "to": 1, "steps": 3}}, 0)),
    "a teacher of weight 0": kd_conf((1.0, 1.0), teacher_weights=[0]),
    "a pair": pair_conf(0.0),
}


@pytest.mark.parametrize("conf", NOTHING.values(), ids=NOTHING)
def test_zero_weights_train_bit_for_bit_as_without_kdhooks(framework: Framework, conf: dict[str, Any]) -> None:
    """Dropout, BatchNorm and their generators among it, though the teacher would give infinities."""
    plain, student = framework.classifier(1), framework.classifier(1)
    framework.seed(5)
    losses = framework.train(plain)
    framework.seed(5)
    with Distillation(conf, student_model=student, teacher_model=framework.infinite()) as distiller:
        assert framework.train(student, distiller=distiller) == losses
        assert distiller.first_bad() is None
        assert list(distiller.losses) == ["CE", "total"]
    assert same(framework.weights(student), framework.weights(plain))


def test_with_zero_weights_the_very_tensor_comes_back_and_no_teacher_runs(framework: Framework) -> None:
    student, teacher = framework.classifier(1), framework.counting(framework.classifier(2))
    for name, conf in NOTHING.items():
        if name != "a pair":  # whose layers the counting model has under another name
            with Distillation(conf, student_model=student, teacher_model=teacher) as distiller:
                assert framework.very_tensor(distiller, student), name
    assert teacher.calls == 0
    with Distillation(kd_conf(), student_model=student, teacher_model=teacher) as distiller:
        assert not framework.very_tensor(distiller, student)
    assert teacher.calls == 1


def test_another_students_weight_only_scales(framework: Framework) -> None:
    distiller, student = distiller_of(framework, kd_conf((0.25, 0.0)))
    with distiller:
        assert not framework.very_tensor(distiller, student)
        assert distiller.losses["total"] == 0.25 * distiller.losses["CE"]


def test_with_weights_no_random_number_of_the_user_is_drawn(framework: Framework) -> None:
    conf = kd_conf((0.5, 0.5), combine="probabilities", teacher_weights=[1, 2])
    conf["distillation"]["train"]["criterion"] |= pair_conf(0.5, add_origin_loss=False, teacher="teacher0")[
        "distillation"
    ]["train"]["criterion"]
    student = framework.classifier(1, dropout=0.0)
    teachers = [framework.classifier(2, 16), framework.classifier(3, 8)]
    framework.seed(5)
    expected = framework.drawn()
    framework.seed(5)
    distiller = Distillation(conf, student_model=student, teacher_model=teachers)
    distiller.eval_func = lambda model: 1.0
    with distiller:
        framework.train(student, distiller=distiller, steps=3)
        distiller.on_epoch_end()
        assert distiller.losses and distiller.state_dict() and distiller.best_model is not None
    assert framework.drawn() == expected


# ---- 8. nothing waits for the device ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["logits", "pair"])
def test_no_step_waits_for_the_device(framework: Framework, kind: str) -> None:
    conf = kd_conf((0.5, RAMP), loss_types=["CE", "KL"]) if kind == "logits" else pair_conf({"cosine": {
        "from": 1.0, "to": 0.5, "steps": 9}})  # fmt: skip
    distiller, student = distiller_of(framework, conf)
    optimizer = framework.optimizer(student)
    distiller.on_train_begin(optimizer=optimizer)
    step = framework.stepping(student, distiller, optimizer)
    step(0)  # matchers are made and functions traced
    with framework.not_waiting():
        for number in (1, 2, 3):
            distiller.on_step_begin(number)
            step(number)
            distiller.on_step_end()
    assert distiller.step == 4 and set(distiller.losses) >= {"CE", "total"}
    distiller.on_train_end()


def test_the_detector_sees_a_value_that_is_read(framework: Framework) -> None:
    distiller, student = distiller_of(framework, kd_conf())
    with distiller:
        framework.total(distiller, student)
        with pytest.raises(AssertionError), framework.not_waiting():
            assert distiller.losses
