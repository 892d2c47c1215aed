"""`AutoDistillation` as a user holds it, with real training of tiny students."""

from __future__ import annotations

import math
import random
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import kdhooks
import kdhooks.search
from kdhooks import AutoDistillation, DistillationConf
from kdhooks.errors import UsageError
from kdhooks.search import Candidate, FlashDistillation, RegularDistillation, Scheduler, SearchResult
from tests.torch.search.searches import Net, agent, batches, build, conf, facts, teacher


def test_names_are_where_users_look_for_them() -> None:
    assert kdhooks.AutoDistillation is kdhooks.search.AutoDistillation is AutoDistillation
    assert {Candidate, FlashDistillation, RegularDistillation, Scheduler, SearchResult} <= {
        getattr(kdhooks.search, name) for name in kdhooks.search.__all__
    }


def test_a_search_by_its_configuration_alone(tmp_path: Path) -> None:
    made = agent(tmp_path)
    best = made.search_loop()
    candidates = made.search_result.candidates
    assert [one.state for one in candidates] == ["complete"] * 4
    assert [one.number for one in candidates] == [0, 1, 2, 3]
    assert len({one.arch["width"] for one in candidates}) == 4
    assert best == made.best_model_arch == made.search_result.best_model_arch
    stages = candidates[0].stages
    assert [(stage["kind"], stage["block"], stage["steps"]) for stage in stages] == [
        ("flash", "hidden", 4),
        ("regular", "", 8),
    ]
    assert all(0 <= one.metrics["accuracy"] <= 1 and one.seconds > 0 and ":" in one.worker for one in candidates)


def test_the_same_seed_gives_the_same_search_bit_for_bit(tmp_path: Path) -> None:
    one, other, third = (agent(tmp_path / name) for name in ("one", "other", "third"))
    one.search_loop()
    torch.rand(5)
    random.random()
    other.search_loop()
    assert facts(one) == facts(other)
    for number in range(4):
        weights = [Path(made.search_result.candidates[number].weights or "") for made in (one, other)]
        assert weights[0].is_file() == weights[1].is_file()
        if weights[0].is_file():
            assert weights[0].read_bytes() == weights[1].read_bytes()
    third.config["auto_distillation.search.seed"] = 1
    third.search_loop()
    assert facts(third) != facts(one)


def test_a_second_call_goes_on_and_trains_nothing_twice(tmp_path: Path) -> None:
    built: list[int] = []

    def counted(arch: dict[str, Any]) -> nn.Module:
        built.append(arch["width"])
        return build(arch)

    first = agent(tmp_path, max_trials=2)
    first.model_builder = counted
    first.search_loop()
    again = agent(tmp_path, max_trials=5)
    again.model_builder = counted
    again.search_loop()
    whole = agent(tmp_path / "whole", max_trials=5)
    whole.search_loop()
    assert len(built) == len(set(built)) == 5
    assert facts(again) == facts(whole)


def test_generators_of_the_program_are_as_before(tmp_path: Path) -> None:
    states = (random.getstate(), torch.get_rng_state(), np.random.get_state()[1].tolist())
    made = agent(tmp_path, max_trials=2)
    made.search_loop()
    arch = made.model_arch_proposition()
    assert arch is None
    made.best_model()
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert np.random.get_state()[1].tolist() == states[2]


def test_students_of_earlier_trials_are_gone(tmp_path: Path) -> None:
    made = agent(tmp_path, max_trials=4)
    earlier: list[weakref.ref[Any]] = []

    def watched(arch: dict[str, Any]) -> nn.Module:
        assert [one() for one in earlier] == [None] * len(earlier)
        model = build(arch)
        earlier.append(weakref.ref(model))
        if len(earlier) == 2:
            raise ValueError("this one fails")
        return model

    made.model_builder = watched
    made.search_loop()
    assert [one() for one in earlier] == [None] * 4
    assert [one.state for one in made.search_result.candidates] == ["complete", "failed", "complete", "complete"]


def test_functions_of_the_users_come_first(tmp_path: Path) -> None:
    seen: list[Any] = []

    def train(model: nn.Module) -> None:
        seen.append(model.training)

    def judge(model: nn.Module) -> list[float]:
        seen.append(model.training)
        return [float(model.hidden.out_features), 0.5]  # type: ignore[union-attr,arg-type]

    settings = conf(tmp_path, stages={}, metrics=["accuracy", "latency"], max_trials=6, best_by="accuracy")
    made = AutoDistillation(build, settings, train_func=train, eval_func=judge)
    assert made.search() == {"width": 8}
    assert seen == [True, False] * 6
    assert made.search_result.best.metrics == {"accuracy": 8.0, "latency": 0.5}  # type: ignore[union-attr]


def test_the_model_that_train_func_returns_is_judged(tmp_path: Path) -> None:
    trained = Net(2)

    def judge(model: nn.Module) -> float:
        assert model is trained
        return 1.0

    made = AutoDistillation(
        build, conf(tmp_path, stages={}, max_trials=1), train_func=lambda model: trained, eval_func=judge
    )
    assert made.search_loop() is not None


def test_what_eval_func_leaves_out_is_measured(tmp_path: Path) -> None:
    settings = conf(tmp_path, stages={}, metrics=["accuracy", "latency", "parameters"], max_trials=1)
    settings["auto_distillation"]["measure"] = {"batch_size": 2, "warm_up": 1, "repeats": 3}
    made = AutoDistillation(build, settings, train_func=lambda model: None, eval_func=lambda model: 0.5)
    made.example_inputs = torch.zeros(1, 6)
    made.search_loop()
    candidate = made.search_result.candidates[0]
    width = candidate.arch["width"]
    assert list(candidate.metrics) == ["accuracy", "latency", "parameters"]
    assert candidate.metrics["parameters"] == 7 * width + (width + 1) * 3
    low, high = candidate.spread["latency"]
    assert 0 < low <= candidate.metrics["latency"] <= high
    assert "parameters" not in candidate.spread


def test_limits_are_looked_at_before_any_training(tmp_path: Path) -> None:
    trained: list[int] = []
    settings = conf(tmp_path, stages={}, constraints=["parameters <= 40", "accuracy >= 0.3"], max_trials=6)

    def judge(model: Any) -> float:
        return float(model.hidden.out_features / 10)

    made = AutoDistillation(build, settings, train_func=lambda model: trained.append(model.hidden.out_features))
    made.eval_func = judge
    assert made.search_loop() == {"width": 3}
    assert sorted(trained) == [2, 3]
    found = {one.arch["width"]: (one.state, one.reason) for one in made.search_result.candidates}
    assert found[2] == ("infeasible", "accuracy is 0.2, which breaks accuracy >= 0.3")
    assert found[3] == ("complete", "")
    assert found[4] == ("infeasible", "parameters is 43, which breaks parameters <= 40")


def test_the_classic_loop_of_proposals(tmp_path: Path) -> None:
    made = agent(tmp_path, max_trials=3)
    results = []
    while (arch := made.model_arch_proposition()) is not None:
        results.append((arch, made.train_evaluate(arch)))
    made.close()
    assert [arch for arch, _ in results] == [dict(one.arch) for one in made.search_result.candidates]
    assert all(list(metrics) == ["accuracy"] for _, metrics in results)
    looped = agent(tmp_path / "looped", max_trials=3)
    looped.search_loop()
    assert facts(made) == facts(looped)


def test_an_architecture_that_the_user_chose(tmp_path: Path) -> None:
    built: list[Any] = []

    def counted(arch: dict[str, Any]) -> nn.Module:
        built.append(arch)
        return build(arch)

    made = agent(tmp_path, max_trials=2)
    made.model_builder = counted
    first = made.train_evaluate({"width": 5})
    assert made.train_evaluate({"width": 5}) == first
    assert built == [{"width": 5}]
    made.search_loop()
    assert made.search_result.candidates[0].arch == {"width": 5}
    assert len(built) == 2
    with pytest.raises(UsageError) as caught:
        made.train_evaluate({"width": 7})
    assert str(caught.value) == "'width' can't be 7: it is one of 2, 3, 4, 5, 6, 8"
    with pytest.raises(UsageError) as caught:
        made.train_evaluate(None)  # type: ignore[arg-type]
    assert str(caught.value) == "train_evaluate takes an architecture, a dict of parameters by name, not None"


def test_metrics_of_a_failed_candidate_are_nan(tmp_path: Path) -> None:
    made = agent(tmp_path, max_trials=2)
    made.model_builder = lambda arch: 1 / 0
    metrics = made.train_evaluate({"width": 5})
    assert list(metrics) == ["accuracy"] and math.isnan(metrics["accuracy"])
    made.close()


def test_both_orders_of_arguments_and_the_classic_form(tmp_path: Path) -> None:
    search = {"search": {"search_space": {"width": (2, 4)}, "storage": "memory"}}
    for made in (AutoDistillation(build, search), AutoDistillation(search, build), AutoDistillation(conf=search)):
        assert made.search_space == {"width": [2, 4]}
        assert made.settings.search.storage == "memory"
    assert AutoDistillation(build, search).model_builder is build
    assert AutoDistillation(search, build).model_builder is build
    assert AutoDistillation(conf=search).model_builder is None
    path = tmp_path / "auto.yaml"
    path.write_text("auto_distillation: {search: {search_space: {width: [2, 4]}}}\n")
    assert AutoDistillation(build, path).search_space == {"width": [2, 4]}
    assert AutoDistillation(str(path), build).config.source == str(path)
    assert AutoDistillation(build, DistillationConf(path)).search_space == {"width": [2, 4]}


def test_what_can_be_read_and_set(tmp_path: Path) -> None:
    made = AutoDistillation(build)
    assert (made.search_space, made.advisor, made.best_model_arch, len(made.search_result)) == ({}, "BO", None, 0)
    made.config = conf(tmp_path, stages={}, storage="memory")
    made.search_space = {"width": [2, 3]}
    made.advisor = "grid"
    made.teacher_model = teacher()
    made.train_func, made.eval_func = (lambda model: None), (lambda model: float(model.hidden.out_features))
    assert (made.search_space, made.advisor) == ({"width": [2, 3]}, "Grid")
    assert made.search_loop() == {"width": 3}
    made.best_model_arch = {"width": 2}
    assert made.best_model_arch == {"width": 2}
    made.best_model_arch = None
    assert made.best_model_arch == {"width": 3}
    earlier = made.search_result
    made.search_result = SearchResult([], made.settings.search)
    assert made.best_model_arch is None
    made.search_result = earlier
    assert made.best_model_arch == {"width": 3}


def test_a_sampler_of_optunas_proposes_in_place_of_the_algorithm(tmp_path: Path) -> None:
    from optuna.samplers import TPESampler

    made = agent(tmp_path, max_trials=4, storage="memory", stages={})
    made.train_func, made.eval_func = (lambda model: None), (lambda model: float(model.hidden.out_features))
    made.advisor = sampler = TPESampler(n_startup_trials=1, seed=5)
    asked: list[int] = []
    relative = sampler.sample_relative
    sampler.sample_relative = lambda *args: asked.append(1) or relative(*args)  # type: ignore[func-returns-value,method-assign]
    made.search_loop()
    assert made.advisor is sampler and len(asked) >= 4
    assert len({one.arch["width"] for one in made.search_result.candidates}) == 4
    with pytest.raises(UsageError) as caught:
        made.advisor = 5
    assert str(caught.value) == "advisor is the name of an algorithm or a sampler of Optuna's, not 5"


def test_the_best_model_is_the_one_that_was_judged(tmp_path: Path) -> None:
    made = agent(tmp_path)
    made.search_loop()
    best = made.search_result.best
    assert best is not None
    model = agent(tmp_path).best_model()
    model.eval()
    right = [int((model(inputs).argmax(1) == target).sum()) for inputs, target in batches()]
    assert sum(right) / 32 == pytest.approx(best.metrics["accuracy"])
    assert model.hidden.out_features == best.arch["width"]


def test_a_study_in_memory_lasts_as_long_as_the_search(tmp_path: Path) -> None:
    built: list[int] = []
    made = agent(tmp_path, storage="memory", max_trials=3)
    builder = made.model_builder

    def interrupted(arch: dict[str, Any]) -> nn.Module:
        built.append(arch["width"])
        if len(built) == 2:
            raise KeyboardInterrupt
        return builder(arch)

    made.model_builder = interrupted
    with pytest.raises(KeyboardInterrupt):
        made.search_loop()
    best = made.search_loop()
    assert built[1] == built[2] and len(built) == 4
    assert best is not None and made.best_model().hidden.out_features == best["width"]
    assert made.search_loop() == best and len(built) == 5 and len(made.look()) == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights"]


def test_only_weights_of_the_best_are_kept(tmp_path: Path) -> None:
    def judge(model: Any) -> tuple[float, float]:
        width = model.hidden.out_features
        return float(width % 5), float(width)

    kept = {"best": {2, 3, 4}, "all": {2, 3, 4, 5, 6, 8}, "none": set()}
    for keep, widths in kept.items():
        settings = conf(tmp_path / keep, stages={}, metrics=["accuracy", "latency"], max_trials=6, keep_weights=keep)
        made = AutoDistillation(build, settings, train_func=lambda model: None, eval_func=judge)
        made.search_loop()
        named = {one.arch["width"]: one.weights for one in made.search_result.candidates if one.weights}
        folder = tmp_path / keep / "weights"
        files = {str(path) for path in folder.iterdir()} if folder.exists() else set()
        assert set(named) == widths and set(named.values()) == files
        assert all(path.endswith(".safetensors") for path in files)


def test_an_empty_search_says_so(tmp_path: Path) -> None:
    made = AutoDistillation(build, conf(tmp_path, stages={}), eval_func=lambda model: 0.5)
    with pytest.raises(UsageError) as caught:
        made.best_model()
    assert str(caught.value) == "no candidate is complete yet, so there is no best model: search_loop() comes first"
