"""Two workers of a `MultiWorkerMirroredStrategy` train as one device does, and all of them know the same losses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.tf.distributed_programs import run_workers

pytestmark = pytest.mark.timeout(600)  # programs of their own, on processors that others may use

NEAR = 2e-6
"""Float32 sums in another order, after a few steps."""

CASES = ("teacher elsewhere", "schedules", "synchronized norm", "mean teacher")
PARTS = ("student", "teacher", "matchers")


@pytest.fixture(scope="module")
def found() -> tuple[Any, Any, Any]:
    """What the first worker, the second one, and one device alone found."""
    one, other, alone = run_workers("tests.tf.worker_loops", 2)
    return one, other, alone


def apart(one: Any, other: Any, part: str) -> float:
    pairs = list(zip(one[part], other[part], strict=True))
    return max((float(abs(np.array(a) - np.array(b)).max()) for a, b in pairs), default=0.0)


@pytest.mark.parametrize("case", CASES)
def test_workers_agree_and_train_as_one_device(found: tuple[Any, Any, Any], case: str) -> None:
    one, other, alone = (results[case] for results in found)
    assert len(one["student"]) >= 4 and [apart(one, other, part) for part in PARTS] == [0, 0, 0]
    assert max(apart(one, alone, part) for part in PARTS) < NEAR
    for name in ("losses", "totals", "means", "steps"):
        assert one[name] == other[name]
    assert one["steps"] == alone["steps"] == [4, 4]
    for mine, theirs in zip([*one["losses"], one["means"]], [*alone["losses"], alone["means"]], strict=True):
        assert mine == pytest.approx(theirs, abs=NEAR)
    assert one["totals"] == pytest.approx([losses["total"] for losses in alone["losses"]], abs=NEAR)


def test_every_worker_knows_what_was_not_finite_on_another(found: tuple[Any, Any, Any]) -> None:
    one, other, _ = found
    assert one["first"][0] == 2 and one["first"] == other["first"]


def test_keras_own_fit_fails_before_any_callback(found: tuple[Any, Any, Any]) -> None:
    """Keras reduces the first batch over the replicas, and TensorFlow takes no value of one replica for that."""
    error = "Attempt to convert a value (PerReplica:{"
    assert [one["fit"] for one in found[:2]] == [{"error": error, "before callbacks": True, "left": []}] * 2
