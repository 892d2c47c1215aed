"""The record of runs in TensorFlow: what it holds, that a run is what it would be without it, and the callback's."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdhooks import Distillation
from kdhooks.runs import read_run
from kdhooks_tf import DistillationCallback
from tests.tf.fit_runs import NOTHING, SGD, batches, distillation, equal, rows, settings, student_model, teacher_model


def fitted(
    folder: Path, *, report: bool, epochs: int = 2, resume: bool = False, shuffle: bool = False
) -> tuple[Distillation, list[float]]:
    conf = settings(folder, criterion=NOTHING, optimizer=SGD, end_epoch=epochs)
    conf["tuning"] |= {"report": report}
    conf["tuning"]["workspace"]["resume"] = resume
    distiller = distillation(conf, batches(60, size=2))
    evaluation = tf.data.Dataset.from_tensor_slices(rows(24, seed=4))
    distiller.eval_dataloader = (evaluation.shuffle(24) if shuffle else evaluation).batch(8)
    distiller.fit()
    drawn = [random.random(), float(np.random.random()), float(tf.random.uniform(())), float(keras.random.uniform(()))]
    return distiller, drawn


def test_a_run_leaves_its_record_and_is_what_it_would_be_without(tmp_path: Path) -> None:
    compared, drawn = fitted(tmp_path / "with", report=True, shuffle=True)
    plain, others = fitted(tmp_path / "without", report=False, shuffle=True)
    assert equal(compared.student_model, plain.student_model) and drawn == others
    assert equal(compared.teacher_model, teacher_model())
    left = zip(compared.optimizer.variables, plain.optimizer.variables, strict=True)
    assert all(np.array_equal(one.numpy(), other.numpy()) for one, other in left)
    found, without = read_run(tmp_path / "with"), read_run(tmp_path / "without")
    assert found["steps"] == without["steps"] and found["steps"]["step"] == [49, 59, 99, 119]
    assert (found["status"], found["framework"], found["device"]) == ("finished", "tensorflow", "cpu:0")
    assert found["history"] == [dict(record) for record in compared.history]
    assert list(found["missing"]) == ["ledger"], found["missing"]
    assert without["missing"]["confusion"] == "tuning.report is false"
    student, teacher = found["models"]["student"], found["models"]["teacher"]
    assert (student["parameters"], student["macs"], teacher["macs"]) == (212, 160, 320)
    assert student["latency_ms"]["median"] > 0 and teacher["metrics"].keys() == {"top1"}
    confusion = found["confusion"]
    assert confusion["rows"] == 24 == int(np.sum(confusion["teacher_student"]))
    assert confusion["accuracy"]["student"] == pytest.approx(student["metrics"]["top1"])
    assert confusion["accuracy"]["teacher"] == pytest.approx(teacher["metrics"]["top1"])
    similarity = found["similarity"]
    assert np.shape(similarity["before"]) == np.shape(similarity["after"]) == (4, 2)
    assert len(found["disagreements"]) == 12
    assert (tmp_path / "with" / "tensorboard").exists()


def test_a_resumed_run_goes_on_with_the_record(tmp_path: Path) -> None:
    fitted(tmp_path / "cut", report=True, epochs=1)
    first = read_run(tmp_path / "cut")
    fitted(tmp_path / "cut", report=True, resume=True)
    fitted(tmp_path / "whole", report=True)
    found, whole = read_run(tmp_path / "cut"), read_run(tmp_path / "whole")
    assert found["began"] == first["began"] and found["steps"] == whole["steps"]
    assert [one["losses"] for one in found["history"]] == [one["losses"] for one in whole["history"]]
    for which in ("before", "after"):
        np.testing.assert_allclose(found["similarity"][which], whole["similarity"][which], atol=1e-6)


def compiled(model: Any) -> Any:
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def test_the_callback_leaves_a_record(tmp_path: Path) -> None:
    x, y = rows(24)
    conf = {"tuning": {"workspace": {"path": str(tmp_path)}}}
    for data in (None, [rows(8, seed=4)]):
        distiller = Distillation(conf, teacher_model=teacher_model())
        distiller.eval_dataloader = data
        student = compiled(student_model())
        student.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[DistillationCallback(distiller)])
        found = read_run(tmp_path)
        assert found["status"] == "finished" and len(found["history"]) == 2 and found["steps"]["step"] == [2, 5]
        if data is None:
            assert found["missing"]["models"] == "there are no evaluation data" and found["models"] == {}
        else:
            assert found["confusion"]["rows"] == 8 and found["models"]["student"]["metrics"].keys() == {"top1"}
            assert list(found["missing"]) == ["ledger"], found["missing"]


def test_an_interrupted_fit_of_the_callback_says_so(tmp_path: Path) -> None:
    class Stops(keras.callbacks.Callback):  # type: ignore[misc]
        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if epoch == 1:
                raise KeyboardInterrupt

    x, y = rows(24)
    distiller = Distillation({"tuning": {"workspace": {"path": str(tmp_path)}}}, teacher_model=teacher_model())
    callback = DistillationCallback(distiller)
    with pytest.raises(KeyboardInterrupt), callback:
        compiled(student_model()).fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[callback, Stops()])
    found = read_run(tmp_path)
    assert found["status"] == "stopped" and len(found["history"]) == 1
