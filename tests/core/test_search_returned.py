"""What an evaluation may return, and what is said of everything else."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from kdhooks.errors import UsageError
from kdhooks.search.trials.returned import metrics_of, not_finite

BOTH = ("accuracy", "latency")
FORMS = "it must return a number, a list of numbers in the order of metrics, or a mapping of numbers by name"


@pytest.mark.parametrize(
    ("result", "names", "metrics"),
    [
        (0.9, ("accuracy",), {"accuracy": 0.9}),
        (np.float32(0.5), ("accuracy",), {"accuracy": 0.5}),
        (True, ("accuracy",), {"accuracy": 1.0}),
        (np.array([0.9, 0.01]), BOTH, {"accuracy": 0.9, "latency": 0.01}),
        ((0.9, 0.01), BOTH, {"accuracy": 0.9, "latency": 0.01}),
        ([0.9], BOTH, {"accuracy": 0.9}),  # latency is measured
        (0.9, BOTH, {"accuracy": 0.9}),
        ({"accuracy": 0.9, "f1": 0.8}, BOTH, {"accuracy": 0.9, "f1": 0.8}),
        ({"latency": 0.01, "accuracy": 0.9}, BOTH, {"latency": 0.01, "accuracy": 0.9}),
        ({}, ("latency",), {}),
        ([1.0, 2.0], ("latency", "macs"), {"latency": 1.0, "macs": 2.0}),
        ((number for number in (0.9, 0.8)), ("accuracy", "f1"), {"accuracy": 0.9, "f1": 0.8}),
    ],
)
def test_what_it_may_return(result: Any, names: tuple[str, ...], metrics: dict[str, float]) -> None:
    assert metrics_of(result, names) == metrics


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ([1, 2, 3], "eval_func returned 3 numbers for 2 metrics: accuracy, latency"),
        (np.zeros(4), "eval_func returned 4 numbers for 2 metrics: accuracy, latency"),
        (None, f"eval_func returned nothing: {FORMS}"),
        ("0.9", f"eval_func returned '0.9': {FORMS}"),
        ([], f"eval_func returned []: {FORMS}"),
        ({"acuracy": 0.9}, "eval_func returned no 'accuracy'. Did you mean 'acuracy'?"),
        ({"f1": 0.9, "recall": 0.8}, "eval_func returned no 'accuracy'. It returned: f1, recall"),
        ({}, "eval_func returned no 'accuracy'. It returned an empty mapping."),
        ({"accuracy": "high"}, "eval_func returned no number for accuracy, but 'high'"),
        ([0.9, "fast"], "eval_func returned no number in place 1, but 'fast'"),
        ([0.9, None], "eval_func returned no number in place 1, but None"),
    ],
)
def test_what_it_may_not_return(result: Any, text: str) -> None:
    with pytest.raises(UsageError) as caught:
        metrics_of(result, BOTH)
    assert str(caught.value) == text


def test_one_metric_is_told_as_one() -> None:
    with pytest.raises(UsageError) as caught:
        metrics_of([0.9, 0.8], ("accuracy",))
    assert str(caught.value) == "eval_func returned 2 numbers for 1 metric: accuracy"


def test_what_is_no_usable_number() -> None:
    assert not_finite({"accuracy": 0.9, "latency": math.inf}, BOTH) == "latency is infinite"
    assert not_finite({"accuracy": math.nan, "latency": math.inf}, BOTH) == "accuracy is NaN"
    assert not_finite({"accuracy": 0.9, "latency": 1.0, "f1": math.nan}, BOTH) is None
