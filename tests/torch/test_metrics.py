"""Metrics by name: values against torchmetrics' own, unlabelled rows, scores, and no waiting for the device."""

from __future__ import annotations

import math
import sys

import pytest
import torch
import torch.nn.functional as F
import torchmetrics.functional.classification as oracle
from torch.utils._python_dispatch import TorchDispatchMode

from kdhooks.config.model import EvaluationSettings, MetricSettings, Named
from kdhooks.errors import DataError, MissingPackageError, UsageError
from kdhooks.registry import REGISTERED_METRICS
from kdhooks.torch.metrics import METRICS, MetricSet, build_metrics, register_metric

ALL_OURS = ("topk", "accuracy", "loss", "perplexity", "F1", "precision", "recall", "Dice", "MSE", "RMSE", "MAE")


@pytest.fixture
def register():
    """Registers metrics that are gone after the test."""
    entries, spelling = dict(REGISTERED_METRICS._entries), dict(REGISTERED_METRICS._spelling)
    yield register_metric
    REGISTERED_METRICS._entries, REGISTERED_METRICS._spelling = entries, spelling


def metrics_of(*named, **options):
    settings = tuple(m if isinstance(m, MetricSettings) else MetricSettings(Named(m, options)) for m in named)
    return build_metrics(EvaluationSettings(metrics=settings))


def measured(metrics, output, target, batches=3):
    for part, share in zip(output.chunk(batches), target.chunk(batches), strict=True):
        metrics.update(part, share)
    return metrics.compute()


def case(rows=60, classes=7, seed=0, unlabelled=0):
    generator = torch.Generator().manual_seed(seed)
    target = torch.randint(0, classes - 2, (rows,), generator=generator)  # two classes never occur
    logits = torch.randn(rows, classes, generator=generator) + 1.5 * F.one_hot(target, classes)
    logits[:, classes - 1] -= 100  # and one of them is never predicted
    target[torch.randperm(rows, generator=generator)[:unlabelled]] = -100
    return logits, target


def test_the_table_of_ours():
    assert tuple(METRICS) == ALL_OURS


@pytest.mark.parametrize("unlabelled", [0, 25])
@pytest.mark.parametrize("average", ["macro", "micro", "weighted"])
def test_ours_agree_with_torchmetrics(average, unlabelled):
    logits, target = case(unlabelled=unlabelled)
    found = measured(
        metrics_of(
            MetricSettings(Named("f1", {"average": average})),
            MetricSettings(Named("precision", {"": average})),
            MetricSettings(Named("recall", {"average": average})),
            MetricSettings(Named("topk", {"": [1, 3]})),
            "accuracy",
            "loss",
            "perplexity",
        ),
        logits,
        target,
    )
    counted = target != -100
    logits, target, how = logits[counted], target[counted], {"num_classes": 7, "average": average}
    nll = F.cross_entropy(logits.double(), target)
    expected = {
        "F1": oracle.multiclass_f1_score(logits, target, **how),
        "precision": oracle.multiclass_precision(logits, target, **how),
        "recall": oracle.multiclass_recall(logits, target, **how),
        "top1": oracle.multiclass_accuracy(logits, target, num_classes=7, average="micro"),
        "top3": oracle.multiclass_accuracy(logits, target, num_classes=7, average="micro", top_k=3),
        "accuracy": oracle.multiclass_accuracy(logits, target, num_classes=7, average="micro"),
        "loss": nll,
        "perplexity": nll.exp(),
    }
    assert list(found) == list(expected)
    assert found == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-5)


def test_numbers_have_their_errors():
    output, target = torch.tensor([[1.0], [4.0], [2.0]]), torch.tensor([2.0, 2.0, 2.0])
    found = measured(metrics_of("MSE", "RMSE", "MAE"), output, target)
    assert found == pytest.approx({"MSE": 5 / 3, "RMSE": math.sqrt(5 / 3), "MAE": 1.0})


@pytest.mark.parametrize("name", ["AUROC", "auroc", "MulticlassAUROC", "CohenKappa", "matthews_corrcoef", "F1Score"])
def test_any_class_of_torchmetrics_goes_by_its_name_and_leaves_out_unlabelled_rows(name):
    logits, target = case(classes=5, unlabelled=20)
    logits, target = torch.cat([logits, torch.eye(5) * 9]), torch.cat([target, torch.arange(5)])
    counted = target != -100
    functions = {
        "auroc": oracle.multiclass_auroc,
        "cohenkappa": oracle.multiclass_cohen_kappa,
        "matthewscorrcoef": oracle.multiclass_matthews_corrcoef,
        "f1score": oracle.multiclass_f1_score,
    }
    function = functions[name.lower().removeprefix("multiclass").replace("_", "")]
    metrics = metrics_of(MetricSettings(Named(name), higher_is_better=True))
    expected = float(function(logits[counted], target[counted], num_classes=5))
    assert measured(metrics, logits, target)[name] == pytest.approx(expected, rel=1e-5)


def test_options_reach_torchmetrics():
    logits, target = case()
    found = measured(metrics_of("FBetaScore", beta=2.0, average="weighted"), logits, target)
    expected = oracle.multiclass_fbeta_score(logits, target, beta=2.0, num_classes=7, average="weighted")
    assert found == {"FBetaScore": pytest.approx(float(expected))}
    found = measured(metrics_of("accuracy", "HingeLoss"), logits, target)
    assert found["HingeLoss"] == pytest.approx(float(oracle.multiclass_hinge_loss(logits, target, num_classes=7)))


@pytest.mark.parametrize("shape", [(4, 6, 3), (4, 3, 3), (2, 3, 4, 5)])
def test_tokens_and_pixels_are_rows(shape):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    axis = 1 if len(shape) == 4 else 2
    target = logits.argmax(axis)
    target.view(-1)[0] = (target.view(-1)[0] + 1) % 3
    target.view(-1)[1] = -100
    count = target.numel() - 1
    found = measured(metrics_of("topk", "loss"), logits, target, batches=2)
    rows = logits.movedim(axis, -1).reshape(-1, 3)
    assert found == pytest.approx(
        {"top1": (count - 1) / count, "loss": float(F.cross_entropy(rows, target.reshape(-1)))}, rel=1e-5
    )


def test_outputs_of_models_and_low_precision_are_understood():
    logits, target = case()
    metrics = metrics_of("loss")
    metrics.update({"hidden": torch.zeros(3), "logits": logits.bfloat16()}, target)
    assert metrics.compute()["loss"] == pytest.approx(float(F.cross_entropy(logits.bfloat16().float(), target)))


def test_topk_of_more_than_there_are_is_all():
    logits, target = case()
    assert measured(metrics_of("topk", k=50), logits, target) == {"top50": 1.0}


def test_reset_forgets_everything_even_the_number_of_classes():
    metrics = metrics_of("F1", "topk")
    first = measured(metrics, *case(seed=1))
    metrics.reset()
    measured(metrics, *case(classes=4, seed=2))
    metrics.reset()
    assert measured(metrics, *case(seed=1)) == first


def test_names_are_made_unique():
    names = ("F1", "topk", "topk")
    metrics = metrics_of(*(MetricSettings(Named(name)) for name in names), MetricSettings(Named("F1", {"": "micro"})))
    assert metrics.names == ("F1", "top1", "top1_2", "F1_2")


def test_the_score_of_one_metric_is_its_value():
    for name, higher in (("topk", True), ("loss", False), ("MSE", False)):
        metrics = metrics_of(name)
        assert metrics.higher_is_better is higher
        assert metrics.score(dict.fromkeys(metrics.names, 0.3)) == 0.3
    assert metrics_of(MetricSettings(Named("loss"), higher_is_better=True)).higher_is_better is True
    assert metrics_of(MetricSettings(Named("topk", {"": [5, 1]}))).score({"top5": 0.9, "top1": 0.5}) == 0.9


def test_the_score_of_several_weighs_them_and_turns_lower_is_better_round():
    metrics = metrics_of(
        MetricSettings(Named("topk"), weight=0.7),
        MetricSettings(Named("loss"), weight=0.2),
        MetricSettings(Named("F1"), weight=0.1, higher_is_better=False),
    )
    assert metrics.higher_is_better is True
    assert metrics.score({"top1": 0.5, "loss": 2.0, "F1": 0.4}) == pytest.approx(0.35 - 0.4 - 0.04)


class NoWaiting(TorchDispatchMode):
    """Fails on what needs a value on the host."""

    forbidden = ("_local_scalar_dense", "nonzero", "is_nonzero", "masked_select", "unique", "bincount", "equal")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.removeprefix("aten::")
        masks = [i for i in (args[1] if name == "index" else ()) if i is not None and i.dtype == torch.bool]
        if name.startswith(self.forbidden) or masks:
            raise AssertionError(f"{name} waits for the device")
        return func(*args, **(kwargs or {}))


def test_updates_of_ours_never_wait_for_the_device():
    metrics = metrics_of("topk", "accuracy", "loss", "perplexity", "F1", "precision", "recall")
    logits, target = case(unlabelled=10)
    with NoWaiting():
        for _ in range(2):
            metrics.update(logits, target)
    with pytest.raises(AssertionError, match="_local_scalar_dense waits for the device"), NoWaiting():
        metrics.compute()
    numbers = metrics_of("MSE", "RMSE", "MAE")
    with NoWaiting():
        numbers.update(torch.ones(3), torch.zeros(3))
    assert numbers.compute() == {"MSE": 1.0, "RMSE": 1.0, "MAE": 1.0}


def test_updates_leave_no_graph_and_change_nothing():
    logits, target = case(unlabelled=5)
    logits.requires_grad_()
    before = logits.detach().clone(), target.clone()
    metrics = metrics_of("loss", "F1")
    metrics.update(logits, target)
    assert not metrics._entries[0].metric.total.requires_grad
    assert torch.equal(logits.detach(), before[0]) and torch.equal(target, before[1])


class Share:
    """A user's metric without torchmetrics."""

    higher_is_better = True

    def __init__(self, of=1):
        self.of, self.seen = of, []

    def update(self, output, target):
        self.seen.append((output.argmax(1) == self.of).float())

    def compute(self):
        return torch.cat(self.seen).mean()


def test_a_registered_metric_gets_the_labelled_rows_and_its_options(register):
    register("share", Share)
    logits, target = case(unlabelled=20)
    metrics = metrics_of("Share", of=2)
    expected = float((logits[target != -100].argmax(1) == 2).float().mean())
    for _ in range(2):
        assert measured(metrics, logits, target) == {"share": pytest.approx(expected)}
        metrics.reset()


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("topkk", {}, "unknown metric 'topkk'. Did you mean 'topk'?"),
        ("AUROCC", {}, "unknown metric 'AUROCC'. Did you mean 'AUROC'?"),
        ("topk", {"": 0}, "topk: k must be a whole number of at least 1, not 0"),
        ("topk", {"kk": 1}, "the metric 'topk' has no option 'kk'. Did you mean 'k'?"),
        ("F1", {"": "makro"}, "F1: average must be macro, micro or weighted, not 'makro'"),
        ("AUROC", {"averag": "macro"}, "the metric 'AUROC' has no option 'averag'. Did you mean 'average'?"),
        ("ConfusionMatrix", {},
         "the metric 'ConfusionMatrix' does not say whether higher is better: set its higher_is_better"),
        ("FBetaScore", {}, "the metric 'FBetaScore' needs the option 'beta'"),
        ("whatever", {}, "the metric 'whatever' must have update(output, target) and compute(); it has no update"),
    ],
)  # fmt: skip
def test_wrong_metrics_are_found_when_the_set_is_built(register, name, options, text):
    register("whatever", lambda: object())
    with pytest.raises(UsageError) as caught:
        metrics_of(name, **options)
    assert str(caught.value) == text


def test_options_that_torchmetrics_refuses_are_named():
    with pytest.raises(UsageError, match=r"^the metric 'AUROC' refuses its options: Expected argument `average` to be"):
        metrics_of("AUROC", average="no")


def test_a_set_needs_metrics():
    with pytest.raises(UsageError, match=r"^evaluation needs at least one metric$"):
        MetricSet(())


@pytest.mark.parametrize(
    ("name", "output", "target", "text"),
    [
        ("topk", torch.zeros(3, 4), torch.tensor([0, 4, 5]),
         "2 targets are no class of the model, whose logits are of 4 classes (0 to 3; -100 for no label)"),
        ("F1", torch.zeros(3, 4), torch.tensor([0, -1, 1]),
         "1 targets are no class of the model, whose logits are of 4 classes (0 to 3; -100 for no label)"),
        ("topk", torch.zeros(2, 4), torch.tensor([-100, -100]),
         "there is nothing to evaluate: no row of the evaluation data has a label"),
        ("F1", torch.zeros(2, 4), torch.tensor([-100, -100]),
         "there is nothing to evaluate: no row of the evaluation data has a label"),
        ("topk", torch.zeros(2), torch.tensor([1, 0]),
         "top1 needs logits [N, C] and class numbers [N], and both have the same shape"),
        ("MSE", torch.zeros(2, 3), torch.tensor([1, 0]),
         "MSE needs numbers of the target's shape, and the output has 3 for each"),
        ("topk", torch.zeros(2, 3), torch.tensor([1.0, 0.0]),
         "class numbers must be whole numbers, and the targets are torch.float32"),
        ("topk", torch.zeros(2, 3), torch.tensor([1]),
         "an output of shape [2, 3] does not belong to a target of shape [1]"),
        ("topk", torch.zeros(2, 3), [1, 0], "metrics need a target that is a tensor, not list"),
    ],
)  # fmt: skip
def test_data_that_cannot_be_measured(name, output, target, text):
    metrics = metrics_of(name)
    with pytest.raises(DataError) as caught:
        metrics.update(output, target)
        metrics.compute()
    assert str(caught.value) == text


def test_no_batches_and_changing_classes_are_errors():
    metrics = metrics_of("topk")
    with pytest.raises(DataError) as caught:
        metrics.compute()
    assert str(caught.value) == "there is nothing to evaluate: the evaluation data had no batches"
    metrics.update(torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(DataError) as caught:
        metrics.update(torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64))
    assert str(caught.value) == "the logits have 4 classes, and those of the batches before had 3"


def test_a_metric_of_many_numbers_asks_for_an_average():
    metrics = metrics_of("MulticlassRecall", average="none")
    with pytest.raises(UsageError) as caught:
        measured(metrics, *case())
    assert str(caught.value) == ("the metric 'MulticlassRecall' gives 7 numbers, and one is needed: choose an average")


def test_evaluation_without_torchmetrics_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchmetrics", None)
    with pytest.raises(MissingPackageError) as caught:
        metrics_of("topk")
    assert str(caught.value) == "evaluation needs the package 'torchmetrics': pip install 'kdhooks[torch]'"
