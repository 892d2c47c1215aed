"""Rule 9 in every framework: the forms of batches that `fit()` takes, which train the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdhooks import Distillation
from kdhooks.errors import DataError
from tests.contract.frameworks import Framework, kd_conf, same


def settings(folder: Path, **train: Any) -> dict[str, Any]:
    conf = kd_conf()
    conf["distillation"]["train"] |= {"end_epoch": 1, "optimizer": {"SGD": {"learning_rate": 0.1}}, **train}
    return conf | {"tuning": {"workspace": {"path": str(folder)}, "random_seed": 5}}


def fitted(framework: Framework, conf: dict[str, Any], batches: Any) -> Any:
    student, teacher = framework.classifier(1, dropout=0.0), framework.classifier(2, 16)
    distiller = Distillation(conf, student_model=student, teacher_model=teacher)
    distiller.train_dataloader = batches
    assert distiller.fit() is student
    return framework.weights(student)


@pytest.mark.parametrize("form", ["list", "mapping of inputs", "named columns", "places of columns"])
def test_batches_of_every_form_train_the_same(framework: Framework, tmp_path: Path, form: str) -> None:
    if framework.traced:
        form = {"mapping of inputs": "list"}.get(form, form)
    columns = [framework.batch_columns(8, seed) for seed in range(3)]
    expected = fitted(framework, settings(tmp_path / "pairs"), [(one["x"], one["y"]) for one in columns])
    train: dict[str, Any] = {}
    if form == "list":
        batches: list[Any] = [[one["x"], one["y"]] for one in columns]
    elif form == "mapping of inputs":
        batches = [{framework.argument: one["x"], "labels": one["y"]} for one in columns]
    else:
        batches = [(one["y"], one["x"]) for one in columns]
        names = form == "named columns"
        train = {"dataloader": {"input_columns": ["labels", framework.argument] if names else [1]}}
    assert same(fitted(framework, settings(tmp_path / "other", **train), batches), expected)


def test_a_batch_of_another_form_is_an_error(framework: Framework, tmp_path: Path) -> None:
    one = framework.batch_columns(8)
    for batch, message in (
        ((one["x"], one["x"], one["x"], one["y"]), "say with input_columns which of them are what"),
        ({"x": one["x"]}, "the batch has no target: it must have the field 'labels' or 'target'"),
    ):
        with pytest.raises(DataError) as caught:
            fitted(framework, settings(tmp_path), [batch])
        assert message in str(caught.value)
