"""Importance of parameters: what decides comes first; where nothing can be said, words say so."""

from __future__ import annotations

import random
import sys
from dataclasses import replace

import pytest

from kdhooks.config.search_settings import Choices, Range, SearchSettings, When
from kdhooks.search.candidates import Candidate
from kdhooks.search.results.importance import importance_of
from kdhooks.search.results.result import SearchResult
from tests.core.search.made_up import searched

SPACE = (
    Choices("size", (1, 2, 4, 8)),
    Choices("kind", ("a", "b", "c")),
    Range("rate", 1e-3, 1.0, log=True, integer=False),
    Range("even", 2, 10, step=2),
    Choices("fixed", (7,)),
)


def result_of(values: str, count: int = 60, *, higher: bool = True) -> SearchResult:
    """A search whose metric is one parameter (times -1 where lower is better) and a little noise."""
    draw = random.Random(0)
    rows = []
    for number in range(count):
        arch = {
            "size": draw.choice((1, 2, 4, 8)),
            "kind": draw.choice("abc"),
            "rate": 10 ** draw.uniform(-3, 0),
            "even": draw.choice((2, 4, 6, 8, 10)),
            "fixed": 7,
        }
        value = {"a": 0.0, "b": 5.0, "c": 1.0}[arch["kind"]] if values == "kind" else float(arch[values])
        rows.append(Candidate(number, arch, "complete", {"score": (value if higher else -value) + draw.gauss(0, 0.01)}))
    return SearchResult(rows, SearchSettings(search_space=SPACE, metrics=("score",), higher_is_better=(higher,)))


@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("decisive", ["size", "kind", "rate", "even"])
def test_the_parameter_that_decides_is_the_first(decisive: str, higher: bool) -> None:
    found = importance_of(result_of(decisive, higher=higher), "score")
    assert next(iter(found.shares)) == decisive
    assert found.shares[decisive] > 0.5
    assert sum(found.shares.values()) == pytest.approx(1.0)
    assert set(found.shares) == {"size", "kind", "rate", "even"}  # one choice is none
    assert found.method == "fANOVA (Optuna): a parameter's share of the variance over 60 complete candidates."


def test_without_scikit_learn_it_is_ped_anova(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(**_: object) -> None:
        raise ImportError("sklearn")

    monkeypatch.setattr("optuna.importance.FanovaImportanceEvaluator", missing)
    found = importance_of(result_of("size"), "score")
    assert next(iter(found.shares)) == "size"
    assert (
        found.method
        == "PED-ANOVA (Optuna): how much a parameter decides whether a candidate is among the best 20 of 60."
    )


def test_conditional_parameters_take_part() -> None:
    rows = []
    for number in range(40):
        arch = {"block": "conv", "kernel": 3 + 2 * (number % 3)} if number % 2 else {"block": "mlp"}
        rows.append(Candidate(number, arch, "complete", {"score": arch.get("kernel", 0) + number / 1000}))
    space = (Choices("block", ("conv", "mlp")), Choices("kernel", (3, 5, 7), when=(When("block", ("conv",)),)))
    found = importance_of(
        SearchResult(rows, SearchSettings(search_space=space, metrics=("score",), higher_is_better=(True,))), "score"
    )
    assert set(found.shares) == {"block", "kernel"}
    assert found.shares["kernel"] > 0.1
    assert (
        found.method
        == "PED-ANOVA (Optuna): how much a parameter decides whether a candidate is among the best 13 of 40."
    )


def test_each_metric_has_its_own() -> None:
    result = searched()
    assert next(iter(importance_of(result, "accuracy").shares)) == "width"
    assert importance_of(result, "accuracy").shares != importance_of(result, "latency").shares


def test_the_same_result_has_the_same_importance() -> None:
    assert importance_of(searched(), "accuracy") == importance_of(searched(), "accuracy")


def test_too_few_candidates() -> None:
    found = importance_of(result_of("size", count=9), "score")
    assert (dict(found.shares), found.method) == ({}, "It needs at least 10 complete candidates, not 9.")


def test_nothing_varies() -> None:
    result = result_of("size")
    same = SearchResult([replace(row, metrics={"score": 1.0}) for row in result.candidates], result.settings)
    assert importance_of(same, "score").method == "All candidates have the same value."
    still = SearchResult([replace(row, arch={"size": 1}) for row in result.candidates], result.settings)
    assert importance_of(still, "score").method == "No parameter of the search space varies."


def test_without_optuna_words_say_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    found = importance_of(result_of("size"), "score")
    assert (dict(found.shares), found.method) == ({}, "It needs Optuna: pip install 'kdhooks[search]'.")
    assert "It needs Optuna: pip install &#x27;kdhooks[search]&#x27;." in result_of("size").html()
