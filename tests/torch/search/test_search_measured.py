"""Limits on measured metrics, from the configuration to the record; and that measuring changes nothing in a search."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdhooks import AutoDistillation
from kdhooks.errors import UsageError
from kdhooks.search.trials.actions import CandidateActions
from tests.torch.search.searches import Net, agent, batches, build, conf, facts

LOOSE = [
    "latency <= 60 s",
    "throughput >= 0.001",
    "parameters <= 1 G",
    "macs <= 1 G",
    "file_size <= 1 GB",
    "peak_memory <= 1 GiB",
]
"""One limit for each measured metric, which every candidate keeps."""


class Slow(Net):
    """Takes about twenty milliseconds for each number of its hidden layer."""

    def forward(self, x: Tensor) -> Any:
        time.sleep(0.02 * self.hidden.out_features)
        return super().forward(x)


def slow(arch: Mapping[str, Any]) -> Slow:
    return Slow(arch["width"])


def test_a_candidate_that_is_too_slow_is_not_trained(tmp_path: Path) -> None:
    trained: list[int] = []
    settings = conf(tmp_path, stages={}, constraints=["latency <= 90 ms"], max_trials=6)
    settings["auto_distillation"]["measure"] = {"batch_size": 2, "warm_up": 0, "repeats": 3}
    made = AutoDistillation(slow, settings, train_func=lambda model: trained.append(model.hidden.out_features))
    made.eval_func = lambda model: model.hidden.out_features / 10
    made.eval_dataloader = batches()
    assert made.search_loop() == {"width": 4}
    assert sorted(trained) == [2, 3, 4]
    found = {one.arch["width"]: one for one in made.search_result.candidates}
    assert {width for width, one in found.items() if one.state == "infeasible"} == {5, 6, 8}
    assert found[8].reason.startswith("latency is 1") and found[8].reason.endswith(" ms, which breaks latency <= 90 ms")
    for width, one in found.items():
        low, high = one.spread["latency"]
        assert 0.02 * width <= low <= one.metrics["latency"] <= high


def test_measuring_changes_nothing_that_a_search_finds(tmp_path: Path) -> None:
    plain, limited = agent(tmp_path / "plain"), agent(tmp_path / "limited", constraints=LOOSE)
    for made in (plain, limited):
        made.search_loop()
    measured = {limit.split()[0] for limit in LOOSE}
    for without, one in zip(facts(plain), facts(limited), strict=True):
        metrics = one[3]
        assert set(metrics) == {"accuracy"} | measured
        assert without == (*one[:3], {"accuracy": metrics["accuracy"]}, one[4])


def test_numbers_of_a_candidate_are_those_of_its_architecture(tmp_path: Path) -> None:
    made = agent(tmp_path, constraints=LOOSE, max_trials=2)
    made.search_loop()
    for one in made.search_result.candidates:
        width = one.arch["width"]
        assert one.metrics["parameters"] == 7 * width + 3 * (width + 1)
        assert one.metrics["macs"] == 6 * width + 3 * width
        assert set(one.spread) == {"latency", "throughput"}
        assert one.weights is None or one.metrics["file_size"] == Path(one.weights).stat().st_size


def test_a_limit_that_needs_inputs_says_what_to_set(tmp_path: Path) -> None:
    settings = conf(tmp_path, stages={}, constraints=["macs <= 100"])
    made = AutoDistillation(build, settings, train_func=lambda model: None, eval_func=lambda model: 0.5)
    with pytest.raises(UsageError, match=r"^macs can't be measured without inputs\. Set example_inputs: "):
        made.search_loop()
    made.example_inputs = torch.zeros(1, 6)
    made.search_loop()


def test_a_candidate_that_fails_on_its_inputs_has_failed(tmp_path: Path) -> None:
    class Picky(Net):
        def forward(self, x: Tensor) -> Any:
            if self.hidden.out_features == 4:
                raise ValueError("not four")
            return super().forward(x)

    settings = conf(tmp_path, stages={}, constraints=["latency <= 1 s"], max_trials=6)
    made = AutoDistillation(lambda arch: Picky(arch["width"]), settings, train_func=lambda model: None)
    made.eval_func = lambda model: 0.5
    made.example_inputs = torch.zeros(1, 6)
    made.search_loop()
    found = {one.arch["width"]: one for one in made.search_result.candidates}
    assert [width for width, one in found.items() if one.state != "complete"] == [4]
    assert found[4].state == "failed"
    assert "Picky can't be measured: it failed on inputs [1, 6]: ValueError: not four" in found[4].reason


def test_a_candidate_is_measured_where_the_loop_would_train_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # "meta" stands for an accelerator: it takes part in all but the numbers themselves.
    monkeypatch.setattr("kdhooks.torch.placement.training_device", lambda conf, model: torch.device("meta"))
    for own in (None, lambda model: None):
        made = agent(tmp_path, metrics=["accuracy", "parameters"], higher_is_better=[True, False])
        made.train_func = own
        model = build({"width": 2})
        assert CandidateActions(made, made.settings, str).measure(model, ["parameters"])["parameters"].value > 0
        assert next(model.parameters()).device.type == ("meta" if own is None else "cpu")
