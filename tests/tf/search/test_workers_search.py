"""Two workers of a `MultiWorkerMirroredStrategy` search together: what the first one says holds for both."""

from __future__ import annotations

import pytest

from tests.tf.distributed_programs import run_workers

pytestmark = pytest.mark.timeout(600)  # programs of their own, on processors that others may use


def test_what_the_first_worker_says_holds_for_both() -> None:
    one, other, alone = run_workers("tests.tf.search.worker_search", 2)
    assert (one.pop("group"), other.pop("group"), alone.pop("group")) == ([0, 2], [1, 2], [0, 1])
    assert one == other == alone
    assert one["said"] == {"from": 0, "text": "ü", "values": [0.5, None]}
    assert one["built"] == [2, 3, 4] and one["best"] == {"width": 4}
    assert [scores["accuracy"] for scores in one["scores"]] == [0.2, 0.3, 0.4]
