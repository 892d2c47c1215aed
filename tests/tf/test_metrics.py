"""Metrics by name: the values of PyTorch's side and of Keras, unlabelled rows, scores, messages."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import torch

from kdhooks.config.model import MetricSettings, Named
from kdhooks.errors import DataError, UsageError
from kdhooks.registry import register_metric
from kdhooks.torch.metrics import MetricSet as TorchMetricSet
from kdhooks_tf.metrics import MetricSet

pytestmark = pytest.mark.usefixtures("registrations_end_with_the_test")


def case(unlabelled: int = 0, seed: int = 0) -> tuple[Any, Any]:
    draws = np.random.default_rng(seed)
    logits, target = draws.normal(size=(64, 7)).astype(np.float32), draws.integers(0, 5, 64)
    target[:unlabelled] = -100
    return logits, target


NAMED = [
    Named("topk", {"": [1, 3, 9]}),
    Named("accuracy"),
    Named("loss"),
    Named("perplexity"),
    *(Named(kind, {"average": average}) for kind in ("F1", "precision", "recall") for average in
      ("macro", "micro", "weighted")),
]  # fmt: skip


@pytest.mark.parametrize("unlabelled", [0, 9])
def test_values_are_those_of_torch(unlabelled: int) -> None:
    settings = [MetricSettings(named) for named in NAMED]
    ours, theirs = MetricSet(settings), TorchMetricSet(settings)
    for seed in range(3):
        logits, target = case(unlabelled, seed)
        ours.update(tf.constant(logits), tf.constant(target))
        theirs.update(torch.tensor(logits), torch.tensor(target))
    assert ours.names == theirs.names
    assert ours.compute() == pytest.approx(theirs.compute(), rel=1e-5)
    assert ours.score(ours.compute()) == pytest.approx(theirs.score(theirs.compute()), rel=1e-5)


def test_numbers_have_errors() -> None:
    metrics = MetricSet([MetricSettings(Named(name)) for name in ("MSE", "RMSE", "MAE")])
    metrics.update(tf.constant([[1.0], [2.0]]), tf.constant([[2.0], [5.0]]))
    assert metrics.compute() == pytest.approx({"MSE": 5.0, "RMSE": 5**0.5, "MAE": 2.0})
    assert not MetricSet([MetricSettings(Named("MSE"))]).higher_is_better


def test_positions_and_pixels_are_rows() -> None:
    logits, target = case()
    flat, shaped, pixels = (MetricSet([MetricSettings(Named("topk", {"": 1}))]) for _ in range(3))
    flat.update(tf.constant(logits), tf.constant(target))
    shaped.update({"logits": tf.constant(logits.reshape(8, 8, 7))}, tf.constant(target.reshape(8, 8)))
    pixels.update(tf.constant(logits.reshape(4, 4, 4, 7), tf.bfloat16), tf.constant(target.reshape(4, 4, 4)))
    assert flat.compute() == shaped.compute() == pixels.compute()
    columns = MetricSet([MetricSettings(Named("topk", {"": 1}))])
    columns.update(tf.constant(logits), tf.constant(target[:, None]))
    assert columns.compute() == flat.compute()


@pytest.mark.parametrize(
    ("named", "higher"),
    [(Named("SparseTopKCategoricalAccuracy", {"k": 2}), True), (Named("sparse_categorical_accuracy"), True),
     (Named("SparseCategoricalCrossentropy", {"from_logits": True}), False)],
)  # fmt: skip
def test_any_metric_of_keras_goes_by_its_name_and_leaves_out_unlabelled_rows(named: Named, higher: bool) -> None:
    logits, target = case(9)
    metrics = MetricSet([MetricSettings(named)])
    assert metrics.higher_is_better is higher
    metrics.update(tf.constant(logits), tf.constant(target))
    kinds = {name.lower(): kind for name, kind in vars(keras.metrics).items()}
    oracle = kinds[named.name.replace("_", "").lower()](**named.options)
    oracle.update_state(target[9:], logits[9:])
    assert metrics.compute() == pytest.approx({named.name: float(oracle.result())})


class Wrong:
    higher_is_better = False

    def __init__(self) -> None:
        self.wrong = 0

    def update(self, output: Any, target: Any) -> None:
        self.wrong += int((output.argmax(1) != target).sum())

    def compute(self) -> int:
        return self.wrong


def test_metrics_of_ones_own_and_of_keras_kind() -> None:
    register_metric("wrong", Wrong)
    register_metric("own accuracy", lambda: keras.metrics.SparseCategoricalAccuracy())
    logits, target = case(4)
    settings = [MetricSettings(Named("wrong"), 0.1), MetricSettings(Named("own accuracy"), 10.0, True)]
    metrics = MetricSet(settings)
    metrics.update(tf.constant(logits), tf.constant(target))
    wrong = int((logits[4:].argmax(1) != target[4:]).sum())
    found = metrics.compute()
    assert found == pytest.approx({"wrong": wrong, "own accuracy": 1 - wrong / 60})
    assert metrics.score(found) == pytest.approx(-0.1 * wrong + 10 * (1 - wrong / 60))
    metrics.reset()
    metrics.update(tf.constant(logits), tf.constant(target))
    assert metrics.compute() == found


def picky(by: int) -> Any:
    raise ValueError("by must be even")


@pytest.mark.parametrize(
    ("named", "text"),
    [
        (Named("topk", {"": 0}), "topk: k must be a whole number of at least 1, not 0"),
        (Named("accurac"), "unknown metric 'accurac'. Did you mean 'accuracy'?"),
        (Named("F1", {"average": "none"}), "F1: average must be macro, micro or weighted, not 'none'"),
        (Named("AUC", {"curves": "ROC"}), "the metric 'AUC' has no option 'curves'. Did you mean 'curve'?"),
        (Named("picky", {"by": 3}), "the metric 'picky' refuses its options: by must be even"),
    ],
)  # fmt: skip
def test_names_and_options_are_tried_out_when_the_set_is_built(named: Named, text: str) -> None:
    register_metric("picky", picky)
    with pytest.raises(UsageError) as caught:
        MetricSet([MetricSettings(named)])
    assert str(caught.value) == text


@pytest.mark.parametrize(
    ("name", "output", "target", "text"),
    [
        ("topk", np.zeros((2, 3)), np.array([0, 3]),
         "1 targets are no class of the model, whose logits are of 3 classes (0 to 2; -100 for no label)"),
        ("topk", np.zeros((2, 3)), np.array([0.0, 1.0]),
         "class numbers must be whole numbers, and the targets are float64"),
        ("topk", np.zeros((2, 3)), np.array([-100, -100]),
         "there is nothing to evaluate: no row of the evaluation data has a label"),
        ("topk", np.zeros((2, 1)), np.array([0, 1]),
         "top1 needs logits [N, C] and class numbers [N], and both have the same shape"),
        ("MSE", np.zeros((2, 3)), np.array([0, 1]),
         "MSE needs numbers of the target's shape, and the output has 3 for each"),
        ("topk", np.zeros((2, 3)), np.array([0, 1, 2]),
         "an output of shape [2, 3] does not belong to a target of shape [3]"),
        ("topk", np.zeros((2, 3)), "labels", "metrics need a target that is a tensor, not str"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_measured(name: str, output: Any, target: Any, text: str) -> None:
    metrics = MetricSet([MetricSettings(Named(name))])
    with pytest.raises(DataError) as caught:
        metrics.update(tf.constant(output), target)
        metrics.compute()
    assert str(caught.value) == text


def test_no_batch_at_all() -> None:
    with pytest.raises(DataError) as caught:
        MetricSet([MetricSettings(Named("topk"))]).compute()
    assert str(caught.value) == "there is nothing to evaluate: the evaluation data had no batches"
