"""What the page says in words, and how it writes numbers."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kdhooks.report import training
from kdhooks.report.headline import cost_sentence, headline
from kdhooks.report.numbers import Metric
from kdhooks.report.record import Pages
from tests.core.report import made_up
from tests.core.report.made_up import history, model, record


def said(student: dict[str, Any], *teachers: dict[str, Any], **changes: Any) -> str:
    names = ["teacher", "second", "third"]
    models = {"student": student, **dict(zip(names, teachers, strict=False))}
    return headline(Pages(record(**{"confusion": None, "models": models} | changes)))


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        ((10, 1, 0.90), (100, 4, 0.95), "keeps 94.7% of THEIRS with 10% of its parameters, 4.0 times as fast"),
        ((10, 1, 0.97), (100, 1, 0.95), "beats THEIRS (97.0% to 95.0%) with 10% of its parameters, as fast"),
        (
            (9, 2, 0.95),
            (9, 1, 0.95),
            "matches THEIRS (95.0%) with as many parameters, at 2.0 times the teacher's latency",
        ),
        ((30, 1, 94.97), (10, 20, 95.0), "matches THEIRS (95.0%) with 3.0 times its parameters, 20 times as fast"),
        ((10, 1, 0.0), (100, 4, 0.0), "matches THEIRS (0.0%) with 10% of its parameters, 4.0 times as fast"),
    ],
)
def test_the_headline(student: tuple[float, ...], teacher: tuple[float, ...], words: str) -> None:
    expected = words.replace("THEIRS", "the teacher's accuracy")
    assert said(model(*student), model(*teacher)) == f"The student {expected}"


def test_a_metric_of_which_less_is_better() -> None:
    student, teacher = model(10, 1, 0.9), model(100, 4, 0.9)
    student["metrics"], teacher["metrics"] = {"perplexity": 14.2}, {"perplexity": 12.1}
    flat = [{**entry, "metrics": {}, "score": None} for entry in history(2)]
    tail = "with 10% of its parameters, 4.0 times as fast"
    words = said(student, teacher, history=flat)
    assert words == f"The student reaches perplexity 14.2 against the teacher's 12.1 {tail}"
    student["metrics"] = {"perplexity": 11.0}
    words = said(student, teacher, history=flat)
    assert words == f"The student beats the teacher's perplexity (11 to 12.1) {tail}"


def test_several_teachers_are_taken_together_and_the_best_one_is_the_measure() -> None:
    words = said(model(10, 1, 0.90), model(50, 4, 0.91), model(50, 5, 0.95))
    assert words == (
        "The student keeps 94.7% of the best teacher's accuracy with 10% of the teachers' parameters, "
        "9.0 times as fast as all of them"
    )


def test_what_is_not_known_is_not_said() -> None:
    student, teacher = model(10, 1, 0.90), model(100, 4, 0.95)
    assert said({**student, "latency_ms": None}, teacher) == (
        "The student keeps 94.7% of the teacher's accuracy with 10% of its parameters"
    )
    assert said({**student, "parameters": None}, teacher) == (
        "The student keeps 94.7% of the teacher's accuracy, 4.0 times as fast"
    )
    assert said({**student, "metrics": {}}, teacher) == (
        "The student has 10% of the teacher's parameters and is 4.0 times as fast"
    )
    assert said({**student, "metrics": {}}, teacher, confusion=made_up.confusion(10)) == (
        "The student keeps 98.2% of the teacher's accuracy with 10% of its parameters, 4.0 times as fast"
    )
    assert said(student) == "The student reached accuracy 94.3% in 24 epochs"
    assert cost_sentence(Pages(record(models={}))) == ""
    bare = [{**entry, "metrics": {}, "score": None, "best": False} for entry in history(1)]
    assert headline(Pages(record(models={}, confusion=None, history=bare))) == "The student trained for 1 epoch"
    bare = [{**entry, "metrics": {}, "score": None, "best": False} for entry in history(2)]
    assert headline(Pages(record(models={}, confusion=None, history=bare))) == (
        "The loss went from 8.39 to 6.56 in 2 epochs"
    )


def test_the_epochs_tell_whether_more_is_better() -> None:
    run = record(3, models={})
    for entry, value in zip(run["history"], (3.0, 2.0, 2.5), strict=True):
        entry |= {"metrics": {"strange": value}, "score": value, "best": value <= 2.5 and value == 2.0}
    assert [metric.higher for metric in Pages(run).metrics] == [False]
    section = training.metrics(Pages(run))
    assert section is not None and section.finding == "Strange was lowest in epoch 1: 2"
    for entry in run["history"]:
        entry["best"] = entry["epoch"] == 0
    assert [metric.higher for metric in Pages(run).metrics] == [True]


@pytest.mark.parametrize(
    ("name", "values", "higher", "text"),
    [
        ("accuracy", [0.5, 0.91], True, "91.0%"),
        ("val_accuracy", [91.0], True, "91.0%"),
        ("top1", [0.91], True, "91.0%"),
        ("topk", [0.91], True, "91.0%"),
        ("answer_f1", [0.91], True, "91.0%"),
        ("val_loss", [0.91], False, "0.91"),
        ("perplexity", [0.91], False, "0.91"),
        ("wer", [0.91], False, "91.0%"),
        ("score", [0.91], True, "0.91"),
        ("accuracy_gain", [-3.0, 0.91], True, "0.91"),
        ("mapping", [0.91], True, "0.91"),
    ],
)
def test_how_a_metric_is_shown(name: str, values: list[float], higher: bool, text: str) -> None:
    metric = Metric.of(name, values)
    assert (metric.higher, metric.text(values[-1])) == (higher, text)


def test_a_loss_that_was_not_finite_is_told() -> None:
    run = record(4)
    run["history"][2]["losses"]["total"] = None
    section = training.losses(Pages(run))
    assert section is not None
    assert section.finding == "The total loss fell from 8.39 to 4.02 over 4 epochs; it had no finite number in epoch 2"
    assert "✕ no finite number in 1 epoch" in section.body
    for entry in run["history"]:
        entry["losses"]["total"] = None
    section = training.losses(Pages(run))
    assert section is not None and section.finding == "The total loss was never a finite number"


def test_epochs_without_evaluation_leave_no_gap_and_bad_numbers_do() -> None:
    run = record(7)
    run["history"][2]["metrics"] = {}
    run["history"][4]["metrics"] = {"accuracy": None}
    section = training.metrics(Pages(run))
    assert section is not None
    assert section.body.count("epoch 4: no finite number") == 2  # on the broad picture and on the narrow one
    assert "epoch 2:" not in section.body
    lines = [path.count("L") + 1 for path in re.findall(r'<path d="(M[^"]*)" class="main"', section.body)]
    assert lines == [3, 2, 3, 2]
