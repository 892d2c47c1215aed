"""How the configuration trains candidates, and how a pruner ends them early."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.nn.modules.module import register_module_forward_hook

from kdhooks import AutoDistillation
from kdhooks.errors import UsageError
from tests.torch.search.searches import agent, build, conf


def test_a_pruner_ends_poor_candidates(tmp_path: Path) -> None:
    steps: list[int] = []
    settings = conf(
        tmp_path, stages={}, max_trials=6, search_algorithm="Grid", pruner={"median": {"startup_trials": 2}}
    )
    made = AutoDistillation(build, settings)

    def train(model: Any) -> None:
        for step in range(3):
            steps.append(model.hidden.out_features)
            made.report(step, 1.0 / model.hidden.out_features)

    made.train_func, made.eval_func = train, lambda model: 1.0 / model.hidden.out_features
    assert made.search_loop() == {"width": 2}
    states = {one.arch["width"]: one.state for one in made.search_result.candidates}
    assert states[2] == states[3] == "complete" and states[8] == "pruned"
    assert steps.count(2) == 3 and steps.count(8) == 1
    assert made.search_result.candidates[5].reason == "its score 0.125 after epoch 0 was behind the others'"
    with pytest.raises(UsageError) as caught:
        made.report(0, 1.0)
    assert str(caught.value) == "report() is for train_func, while the search trains a candidate"


@pytest.mark.parametrize("own", [False, True])
def test_a_pruner_is_fed_by_the_configurations_stages(tmp_path: Path, own: bool) -> None:
    made = agent(tmp_path, max_trials=3, pruner="median")
    seen: list[int] = []
    if own:
        made.eval_func = lambda model: seen.append(1) or 0.5  # type: ignore[func-returns-value]
    made.search_loop()
    assert [one.state for one in made.search_result.candidates] == ["complete"] * 3
    assert len(seen) == (9 if own else 0)  # after each of two epochs, and at the end


@pytest.mark.parametrize("own", [False, True])
def test_without_stages_the_section_distillation_trains(tmp_path: Path, own: bool) -> None:
    made = agent(tmp_path, stages={}, max_trials=2, pruner="median")
    if own:
        made.eval_func = lambda model: 0.5
    made.search_loop()
    found = made.search_result.candidates
    assert [one.state for one in found] == ["complete"] * 2
    assert [stage["steps"] for one in found for stage in one.stages] == [8, 8]
    assert not list(tmp_path.glob("*.pt"))  # no checkpoint of a candidate


def test_stored_outputs_of_the_teacher_serve_all_candidates(tmp_path: Path) -> None:
    made = agent(tmp_path, max_trials=3)
    made.config["distillation.cache"] = {"path": str(tmp_path / "cache")}
    rows: list[int] = []
    hidden = made.teacher_model.hidden

    def count(module: Any, inputs: Any, output: Any) -> None:
        if module is hidden:  # a hook of its own would be another teacher with every row that it counts
            rows.append(len(output))

    handle = register_module_forward_hook(count)
    seen = []
    builder = made.model_builder

    def counted(arch: dict[str, Any]) -> Any:
        seen.append(sum(rows))
        return builder(arch)

    made.model_builder = counted
    with handle:
        made.search_loop()
    plain = agent(tmp_path / "plain", max_trials=3)
    plain.search_loop()
    assert [one.metrics for one in made.search_result.candidates] == [
        one.metrics for one in plain.search_result.candidates
    ]
    assert sum(rows) == seen[1] == 2 * 32  # the first candidate has stored every row, for each part what it looks at
