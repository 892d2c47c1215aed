"""Training under a distribution strategy gives what one device gives with the same global batches."""

from __future__ import annotations

from typing import Any

import pytest

from tests.tf.distributed_programs import run

pytestmark = pytest.mark.timeout(600)  # programs of their own, on processors that others may use

NEAR = 2e-6
"""Float32 sums in another order, after a few steps."""

NAMES = {
    "logits": ["CE", "KL", "total"],
    "average": ["CE", "KL", "total"],
    "logits, eagerly": ["CE", "KL", "total"],
    "teacher elsewhere": ["CE", "KL", "MSE[body]", "total"],
    "schedules": ["CE", "KL", "MSE[body]", "total"],
    "schedules, eagerly": ["CE", "KL", "MSE[body]", "total"],
    "resumed": ["CE", "KL", "MSE[body]", "total"],
    "synchronized norm": ["CE", "KL", "MSE[body]", "total"],
    "mean teacher": ["CE", "KL", "total"],
}


@pytest.fixture(scope="module")
def programs() -> list[Any]:
    """What the loops and the fits found; both run at once."""
    return run("tests.tf.mirrored_loops", "tests.tf.mirrored_fit")


@pytest.mark.parametrize("case", NAMES)
def test_a_loop_on_two_replicas_is_as_on_one_device(programs: list[Any], case: str) -> None:
    found = programs[0][case]
    assert found["names"] == NAMES[case]
    assert found["between"] == 0 and found["copies"] == [2]
    near = {name: found[name] for name in ("student", "teacher", "matchers", "losses", "means", "totals", "total")}
    assert max(near.values()) < NEAR, near
    assert found["steps"] == [4, 4]


def test_replicas_with_statistics_of_their_own_agree_on_what_is_trained(programs: list[Any]) -> None:
    found = programs[0]["own norm"]
    assert found["between"] == 0
    assert found["statistics"] > 1e-3  # Keras leaves these apart, so the comparison sees replicas that differ


def test_what_is_not_finite_on_one_replica_is_found(programs: list[Any]) -> None:
    assert programs[0]["spoiled"] == programs[0]["spoiled, alone"]
    assert programs[0]["spoiled"] == {
        "first": [2, "CE"],
        "reason": (
            "<dict>: distillation.train.criterion.IntermediateLayersKnowledgeDistillationLoss.layer_mappings[0][1]: "
            "pair 'body' -> 'body': teacher Sequential: layer 'body' returned NaN or infinite values at step 2\n"
            "  Look at the teacher's inputs, weights and precision."
        ),
    }


def test_a_mean_teacher_must_be_on_every_replica(programs: list[Any]) -> None:
    assert programs[0]["elsewhere"] == (
        "<dict>: distillation.teacher.ema: with ema the teacher is an average of the student on each replica: make it "
        "in the scope of the student's strategy\n"
        "  Leave teacher_model unset: the average begins as the student."
    )


LOGS = ["accuracy", "distillation/CE", "distillation/KL", "loss", "val_accuracy", "val_loss"]


@pytest.mark.parametrize("case", ["logits", "schedules", "mean teacher", "eagerly"])
def test_fit_on_two_replicas_is_as_on_one_device(programs: list[Any], case: str) -> None:
    found = programs[1][case]
    pair = ["distillation/MSE[body]"] if case in ("schedules", "eagerly") else []
    assert found["names"] == sorted([*LOGS, *pair])
    assert found["between"] == 0 and found["copies"] == [2]
    near = {name: found[name] for name in ("student", "matchers", "logs", "records")}
    assert max(near.values()) < NEAR, near
    assert found["steps"] == [8, 8] and found["left"] == []


def test_terms_of_weight_zero_change_nothing_under_a_strategy(programs: list[Any]) -> None:
    assert programs[1]["weight 0"] == {"same": True, "loss": True}


def test_a_replica_without_a_row_spoils_nothing(programs: list[Any]) -> None:
    assert programs[1]["uneven"] == {"between": 0.0, "finite": True, "steps": [4, 4]}
