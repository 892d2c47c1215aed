"""What a user does wrong: what ends a candidate, what ends the search, and that nothing recorded is lost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdhooks import AutoDistillation, ConfigError
from kdhooks.errors import UsageError
from tests.torch.search.searches import STAGES, agent, build, conf, facts, teacher


def simple(folder: Path, **search: Any) -> AutoDistillation:
    """A search that needs no training."""
    made = AutoDistillation(build, conf(folder, stages={}, **search))
    made.train_func = lambda model: None
    made.eval_func = lambda model: float(model.hidden.out_features)
    return made


def reasons(made: AutoDistillation) -> list[tuple[str, str]]:
    return [(one.state, one.reason) for one in made.search_result.candidates]


def test_a_builder_that_raises_for_some_points_fails_them_alone(tmp_path: Path) -> None:
    made = simple(tmp_path, max_trials=6, search_algorithm="Grid")

    def builder(arch: dict[str, Any]) -> nn.Module:
        if arch["width"] % 2:
            raise ValueError("width must be even\nand more")
        return build(arch)

    made.model_builder = builder
    assert made.search_loop() == {"width": 8}
    line = builder.__code__.co_firstlineno + 2
    text = f"model_builder raised ValueError: width must be even ({__file__}, line {line})"
    ok, bad = ("complete", ""), ("failed", text)
    assert reasons(made) == [ok, bad, ok, bad, ok, ok]


def test_numbers_that_are_none_fail_a_candidate(tmp_path: Path) -> None:
    made = simple(tmp_path, max_trials=3, search_algorithm="Grid")
    values = iter([0.5, math.nan, math.inf])
    made.eval_func = lambda model: next(values)
    made.search_loop()
    assert reasons(made) == [("complete", ""), ("failed", "accuracy is NaN"), ("failed", "accuracy is infinite")]


def test_a_model_that_does_not_train_fails_alone(tmp_path: Path) -> None:
    made = agent(tmp_path, max_trials=3, search_algorithm="Grid")

    def builder(arch: dict[str, Any]) -> nn.Module:
        model = build(arch)
        if arch["width"] == 3:
            with torch.no_grad():
                model.hidden.weight.fill_(math.nan)  # type: ignore[union-attr,operator]
        return model

    made.model_builder = builder
    made.search_loop()
    first, bad, last = made.search_result.candidates
    assert (first.state, bad.state, last.state) == ("complete", "failed", "complete")
    assert bad.reason == "the loss component 'MSE[hidden]' became NaN or infinite at step 0"


def test_errors_of_training_and_evaluation_have_their_place(tmp_path: Path) -> None:
    made = simple(tmp_path, max_trials=2, search_algorithm="Grid")

    def train(model: nn.Module) -> None:
        raise RuntimeError("out of memory")

    made.train_func = train
    made.train_evaluate({"width": 2})
    made.train_func = lambda model: None

    def judge(model: nn.Module) -> float:
        return 1 / 0

    made.eval_func = judge
    made.train_evaluate({"width": 3})
    made.close()
    lines = [function.__code__.co_firstlineno + 1 for function in (train, judge)]
    assert reasons(made) == [
        ("failed", f"train_func raised RuntimeError: out of memory ({__file__}, line {lines[0]})"),
        ("failed", f"eval_func raised ZeroDivisionError: division by zero ({__file__}, line {lines[1]})"),
    ]


@pytest.mark.parametrize(
    ("attribute", "function", "text"),
    [
        ("eval_func", lambda model: [1, 2, 3], "eval_func returned 3 numbers for 2 metrics: accuracy, f1"),
        (
            "model_builder",
            lambda arch: None,
            "model_builder returned nothing: it must return a model of PyTorch or Keras",
        ),
        (
            "model_builder",
            lambda arch: 5,
            "model_builder returned an object of type int: it must return a model of PyTorch or Keras",
        ),
        (
            "train_func",
            lambda model: 0.5,
            "train_func returned an object of type float: it must return the model, or nothing",
        ),
        ("model_builder", None, "no model_builder is set: it is called with an architecture and returns the model"),
    ],
)
def test_a_mistake_that_all_would_make_ends_the_search_at_the_first(
    tmp_path: Path, attribute: str, function: Any, text: str
) -> None:
    made = simple(tmp_path, metrics=["accuracy", "f1"], search_algorithm="Grid", best_by="accuracy", max_trials=3)
    made.eval_func = good = lambda model: [float(model.hidden.out_features), 0.5]
    before = getattr(made, attribute)
    setattr(made, attribute, function)
    with pytest.raises(UsageError) as caught:
        made.search_loop()
    assert str(caught.value) == text
    assert reasons(made) == []
    assert good is made.eval_func or attribute == "eval_func"
    setattr(made, attribute, before)
    assert made.search_loop() == {"width": 4}  # the candidate of the mistake is taken up again
    assert [one.arch["width"] for one in made.search_result.candidates] == [2, 3, 4]


def test_behind_a_trained_candidate_it_is_that_ones_own(tmp_path: Path) -> None:
    made = simple(tmp_path, search_algorithm="Grid", max_trials=3)
    results: Any = iter([0.5, [1, 2], 0.7])
    made.eval_func = lambda model: next(results)
    made.search_loop()
    bad = ("failed", "eval_func returned 2 numbers for 1 metric: accuracy")
    assert reasons(made) == [("complete", ""), bad, ("complete", "")]


def test_a_block_that_the_student_lacks_is_told_at_its_line(tmp_path: Path) -> None:
    path = tmp_path / "auto.yaml"
    path.write_text(
        f"""\
auto_distillation:
  search:
    search_space: {{width: [2, 3]}}
    search_algorithm: Grid
  flash_distillation:
    block_names: [hiden]
    layer_mappings_for_knowledge_transfer: [[[hidden, hidden]]]
    train_steps: [2]
evaluation: {{accuracy: {{}}}}
tuning: {{workspace: {{path: {tmp_path}}}}}
"""
    )
    made = AutoDistillation(build, path, teacher_model=teacher())
    made.train_dataloader = made.eval_dataloader = agent(tmp_path).train_dataloader
    with pytest.raises(ConfigError) as caught:
        made.search_loop()
    assert str(caught.value) == (
        f"{path}:6:19: auto_distillation.flash_distillation.block_names[0]: student Net has no layer 'hiden'\n"
        "  6 |     block_names: [hiden]\n"
        "    |                   ^^^^^\n"
        "  Did you mean 'hidden'? All layers: kdhooks layers MODEL"
    )
    assert len(made.search_result) == 0
    made.config["auto_distillation.flash_distillation.block_names"] = ["hidden"]
    assert made.search_loop() is not None


def test_nothing_to_train_on_ends_the_search(tmp_path: Path) -> None:
    made = agent(tmp_path)
    made.train_dataloader = None
    with pytest.raises(UsageError) as caught:
        made.search_loop()
    assert str(caught.value) == (
        "FlashDistillation has nothing to train on: set train_dataloader, or name a dataset in "
        "auto_distillation.train.dataloader"
    )


def test_nothing_that_judges_is_told_before_any_training(tmp_path: Path) -> None:
    made = agent(tmp_path)
    made.eval_dataloader = None
    made.train_func = lambda model: pytest.fail("it is trained")
    with pytest.raises(ConfigError) as caught:
        made.search_loop()
    assert str(caught.value) == (
        "<dict>: auto_distillation.search.metrics: nothing judges accuracy\n"
        "  Set eval_func, or write the section evaluation with a dataloader."
    )


def test_a_metric_that_the_evaluation_lacks_is_told_before_any_training(tmp_path: Path) -> None:
    made = agent(tmp_path, metrics=["top5"])
    made.train_func = lambda model: pytest.fail("it is trained")
    with pytest.raises(ConfigError) as caught:
        made.search_loop()
    assert str(caught.value) == (
        "<dict>: auto_distillation.search.metrics: the evaluation gives no 'top5'\n  Did you mean 'top1'?"
    )
    named = agent(tmp_path / "named", metrics=["top1"], max_trials=1)
    named.search_loop()
    assert list(named.search_result.candidates[0].metrics) == ["top1"]


def test_an_empty_space_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        AutoDistillation(build, eval_func=lambda model: 0.5).search_loop()
    assert str(caught.value) == "the search space is empty: it needs one parameter at least"


def test_the_first_five_that_fail_in_the_same_way_end_the_search(tmp_path: Path) -> None:
    made = simple(tmp_path, max_trials=6, search_algorithm="Grid")

    def judge(model: nn.Module) -> float:
        return undefined  # type: ignore[name-defined,no-any-return]  # noqa: F821

    made.eval_func = judge
    with pytest.raises(UsageError) as caught:
        made.search_loop()
    place = f"({__file__}, line {judge.__code__.co_firstlineno + 1})"
    reason = f"eval_func raised NameError: name 'undefined' is not defined {place}"
    assert str(caught.value) == (
        f"the first 5 candidates failed in the same way, so the search ends: {reason}. They are recorded, and another "
        "search goes on with the next one"
    )
    assert reasons(made) == [("failed", reason)] * 5
    made.eval_func = lambda model: 0.5
    assert made.search_loop() == {"width": 8}


def test_candidates_that_fail_in_different_ways_do_not_end_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = simple(tmp_path, max_trials=6, search_algorithm="Grid")

    def judge(model: Any) -> float:
        raise ValueError(f"width {model.hidden.out_features}")

    made.eval_func = judge
    assert made.search_loop() is None
    assert [one.state for one in made.search_result.candidates] == ["failed"] * 6
    assert caplog.records[-1].getMessage() == (
        "no candidate is complete, so there is no best one: SearchResult(6 candidates, no best yet)"
    )


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_candidate_is_taken_up_again(tmp_path: Path, error: type[BaseException]) -> None:
    made = agent(tmp_path)
    calls: list[int] = []

    def builder(arch: dict[str, Any]) -> nn.Module:
        calls.append(arch["width"])
        if len(calls) == 3:
            raise error
        return build(arch)

    made.model_builder = builder
    with pytest.raises(error):
        made.search_loop()
    assert [one.state for one in made.search_result.candidates] == ["complete"] * 2
    made.search_loop()
    assert calls[2] == calls[3] and len(calls) == 5
    whole = agent(tmp_path / "whole")
    whole.search_loop()
    assert facts(made) == facts(whole)


def test_a_study_of_other_stages_is_refused(tmp_path: Path) -> None:
    agent(tmp_path, max_trials=1, storage=f"journal:{tmp_path / 'search.log'}").search_loop()
    longer = {**STAGES, "flash_distillation": {**STAGES["flash_distillation"], "train_steps": [5]}}
    made = agent(tmp_path, max_trials=1, storage=f"journal:{tmp_path / 'search.log'}", stages=longer)
    with pytest.raises(ConfigError) as caught:
        made.search_loop()
    text = str(caught.value)
    assert text.startswith(
        f"<dict>: auto_distillation.search.storage: the study 'tiny' in journal:{tmp_path}/search.log is of another "
        'search: flash_distillation was "1 stages of [4] steps, '
    )
    assert text.endswith("\n  Write another study_name for a new study")


def test_weights_that_are_gone_or_were_not_kept(tmp_path: Path) -> None:
    made = simple(tmp_path, max_trials=1, keep_weights="none")
    made.search_loop()
    with pytest.raises(UsageError) as caught:
        made.best_model()
    assert str(caught.value) == "the weights of candidate 0 were not kept: keep_weights is 'none'"
