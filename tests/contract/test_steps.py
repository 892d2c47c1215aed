"""``distillation.train.steps`` in every framework: a run of so many batches, whatever an epoch has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kdhooks import Distillation
from tests.contract.frameworks import Framework, kd_conf, same


def distillation(framework: Framework, folder: Path, *, resume: bool = False, **train: Any) -> Distillation:
    conf = kd_conf()
    conf["distillation"]["train"] |= {"optimizer": {"SGD": {"learning_rate": 0.1}}, **train}
    conf["tuning"] = {"workspace": {"path": str(folder), "resume": resume}, "random_seed": 5}
    student, teacher = framework.classifier(1, dropout=0.0), framework.classifier(2, 16)
    distiller = Distillation(conf, student_model=student, teacher_model=teacher)
    distiller.train_dataloader = [(one["x"], one["y"]) for one in (framework.batch_columns(8, n) for n in range(3))]
    return distiller


@pytest.mark.parametrize(("steps", "accumulation", "epochs"), [(2, 1, [2]), (3, 1, [3]), (7, 2, [3, 3, 1])])
def test_a_run_takes_exactly_its_steps(
    framework: Framework, tmp_path: Path, steps: int, accumulation: int, epochs: list[int]
) -> None:
    distiller = distillation(framework, tmp_path, steps=steps, gradient_accumulation=accumulation)
    distiller.fit()
    assert [record["steps"] for record in distiller.history] == epochs
    assert distiller.step == steps


def test_a_run_is_evaluated_after_its_last_step(framework: Framework, tmp_path: Path) -> None:
    distiller = distillation(framework, tmp_path, steps=7, frequency=2)
    distiller.eval_func = lambda student: float(framework.logits(student, framework.inputs()).sum())
    distiller.fit()
    assert [bool(record["metrics"]) for record in distiller.history] == [False, True, True]


def test_a_run_of_steps_goes_on_where_it_was_interrupted(framework: Framework, tmp_path: Path) -> None:
    whole = distillation(framework, tmp_path / "whole", steps=7, checkpoint_steps=1, scheduler="Linear")
    whole.fit()
    broken = distillation(framework, tmp_path / "other", steps=7, checkpoint_steps=1, scheduler="Linear")

    def fail(distiller: Distillation) -> None:
        if distiller.step == 5:
            raise RuntimeError("interrupted")

    broken.register_hook("on_step_begin", fail)
    with pytest.raises(RuntimeError, match=r"^interrupted$"):
        broken.fit()
    again = distillation(framework, tmp_path / "other", resume=True, steps=7, checkpoint_steps=1, scheduler="Linear")
    again.fit()
    assert same(framework.weights(whole.student_model), framework.weights(again.student_model))
    assert again.step == 7


def test_a_loader_without_a_length(framework: Framework, tmp_path: Path) -> None:
    class Unsized:
        def __init__(self, batches: list[Any]) -> None:
            self.batches = batches

        def __iter__(self) -> Any:
            return iter(self.batches)

    known = distillation(framework, tmp_path / "known", steps=5, scheduler="Linear")
    unknown = distillation(framework, tmp_path / "unknown", steps=5, scheduler="Linear")
    unknown.train_dataloader = Unsized(unknown.train_dataloader)
    one, other = (framework.weights(distiller.fit()) for distiller in (known, unknown))
    assert all(np.array_equal(one[name], other[name]) for name in one)
