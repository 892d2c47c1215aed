"""The record that a run of the ready-made loop leaves in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from kdhooks.errors import UsageError
from kdhooks.report import write_report
from kdhooks.runs import read_run
from tests.torch.training.setups import Accuracy, Brings, Older, Scores, classifier, loader, trained

VALIDATION: dict[str, Any] = {"val_data_loaders": {"v": loader(7), "w": loader(8)}}
COMPARED = ("models", "similarity", "confusion", "disagreements")


def models() -> dict[str, Any]:
    return {"student_model": classifier(), "teacher_model": classifier(2)}


def test_a_run_leaves_a_record_from_which_a_page_is_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "kdhooks"):
        run = trained(
            tmp_path, **models(), **VALIDATION, inference_pipeline=Accuracy(), max_epoch=2, log_every_n_steps=3
        )
    record = read_run(run.folder)
    assert (record["status"], record["seed"], record["framework"]) == ("finished", 32, "pytorch")
    assert record["history"] == list(run.history)
    steps = record["steps"]
    assert steps["step"] == [0, 3, 6, 7]  # those that were logged, and the last ones of the epochs
    assert steps["learning_rate"] == [0.1] * 4
    assert list(steps["losses"]) == ["kd_loss", "total"]
    assert steps["losses"]["kd_loss"] == steps["losses"]["total"] and all(
        value > 0 for value in steps["losses"]["total"]
    )
    assert sorted(record["missing"]) == ["ledger", "models.teacher"]
    assert (
        record["missing"]["models.teacher"] == "inference_pipeline tests the student, and nothing else is asked of it"
    )
    best = run.history[-1] if run.history[-1]["best"] else run.history[0]
    assert record["models"]["student"]["metrics"] == best["metrics"]
    assert record["confusion"]["rows"] == 32
    assert record["confusion"]["accuracy"]["student"] == pytest.approx(best["metrics"]["v"])
    similarity = record["similarity"]
    assert similarity["before"] != similarity["after"] and similarity["student_layers"] == similarity["teacher_layers"]
    assert caplog.messages[-1] == (f"checkpoints and logs: {run.folder}; for a page: kdhooks report {run.folder}")
    assert write_report(run.folder) == run.folder / "report.html"


def test_the_configuration_is_the_arguments(tmp_path: Path) -> None:
    run = trained(
        tmp_path,
        **VALIDATION,
        inference_pipeline=Accuracy(),
        seed=7,
        logging_param={"rows": 3, "where": Path("here")},
        student_loss=torch.nn.functional.cross_entropy,
        final_loss_coeff_dict={"kd_loss": 0.9, "student_loss": torch.tensor(0.25).item()},
        distillation={"tuning": {"report": False}},
        comet_exp_name="first",
    )
    record = read_run(run.folder)
    assert (record["name"], record["seed"]) == ("first", 7)
    found = yaml.safe_load(record["configuration"])
    expected = {
        "teacher_model": "Linear",
        "train_data_loader": "DataLoader",
        "val_data_loaders": {"v": "DataLoader", "w": "DataLoader"},
        "inference_pipeline": "Accuracy",
        "final_loss_coeff_dict": {"kd_loss": 0.9, "student_loss": 0.25},
        "learning_rate": 0.1,
        "seed": 7,
        "logging_param": {"rows": 3, "where": "here"},
        "student_loss": "cross_entropy",
        "distillation": {"tuning": {"report": False}},
        "workspace": str(tmp_path),
    }
    assert {name: found[name] for name in expected} == expected
    assert {name: record["missing"][name] for name in COMPARED} == dict.fromkeys(COMPARED, "tuning.report is false")


def test_without_validation_it_says_why_nothing_is_compared(tmp_path: Path) -> None:
    record = read_run(trained(tmp_path, **models()).folder)
    reason = "there are no evaluation data: val_data_loaders is None"
    assert {name: record["missing"][name] for name in COMPARED[1:]} == dict.fromkeys(COMPARED[1:], reason)
    assert record["missing"]["models.student"] == reason
    assert record["models"]["student"]["parameters"] > 0 and record["models"]["student"]["latency_ms"] is None


def test_models_that_are_called_otherwise_are_compared_too(tmp_path: Path) -> None:
    run = trained(
        tmp_path,
        student_model=Brings(),
        teacher_model=Older(3),
        final_loss_coeff_dict={"kd_loss": 1, "student_loss": 1, "penalty": 0.1},
        temperature=4,
        val_data_loaders={"v": loader(7)},
        inference_pipeline=Scores(0.5),
    )
    record = read_run(run.folder)
    x, y = loader(7).dataset[:]
    right = [
        (model(x)["logits"].argmax(-1) == y).float().mean()
        for model in (run.get_student_model(), run.distiller.teacher_model)
    ]
    assert list(record["confusion"]["accuracy"].values()) == pytest.approx([float(right[1]), float(right[0])])


def test_a_run_that_goes_on_goes_on_with_the_record(tmp_path: Path) -> None:
    first = trained(tmp_path, **models(), **VALIDATION, inference_pipeline=Accuracy())
    kept = read_run(first.folder)
    run = trained(
        tmp_path,
        **models(),
        **VALIDATION,
        inference_pipeline=Accuracy(),
        max_epoch=2,
        seed=5,
        resume_from_checkpoint=first.folder / "last.ckpt",
    )
    record, whole = (
        read_run(run.folder),
        trained(tmp_path, **models(), **VALIDATION, inference_pipeline=Accuracy(), max_epoch=2),
    )
    assert run.folder != first.folder and read_run(first.folder) == kept
    assert (record["status"], record["seed"], record["began"]) == ("finished", 32, kept["began"])
    assert record["steps"] == read_run(whole.folder)["steps"]
    assert record["similarity"] == read_run(whole.folder)["similarity"]
    assert [one["losses"] for one in record["history"]] == [one["losses"] for one in whole.history]


def test_a_pipeline_that_fails_leaves_a_failed_record(tmp_path: Path) -> None:
    class Fails:
        calls = 0

        def run_inference_pipeline(self, model: Any, data_loader: Any) -> Any:
            self.calls += 1
            return {"inference_result": 0.5} if self.calls == 1 else {}

    with pytest.raises(UsageError):
        trained(tmp_path, **models(), val_data_loaders={"v": loader(7)}, inference_pipeline=Fails(), max_epoch=3)
    record = read_run(tmp_path / "version_0")
    assert record["status"] == "failed" and record["ended"] is not None
    assert [one["metrics"] for one in record["history"]] == [{"v": 0.5}, {}]
    assert record["steps"]["step"] == [*range(8)]
    assert record["missing"]["confusion"] == "the run was failed"


def test_ctrl_c_leaves_a_stopped_record(tmp_path: Path) -> None:
    student = classifier()
    calls: list[int] = []

    def interrupt(module: Any, given: Any, output: Any) -> None:
        calls.append(1)
        if module.training and len(calls) > 6:
            raise KeyboardInterrupt

    handle = student.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, student_model=student, teacher_model=classifier(2), max_epoch=3)
    handle.remove()
    record = read_run(tmp_path / "version_0")
    assert record["status"] == "stopped" and len(record["history"]) == 1
    assert record["steps"]["step"] == [*range(6)]


def test_the_record_does_not_move_the_training(tmp_path: Path) -> None:
    found = []
    for report in (True, False):
        run = trained(
            tmp_path,
            **models(),
            val_data_loaders={"v": loader(7, shuffle=True)},
            inference_pipeline=Accuracy(),
            train_data_loader=loader(shuffle=True),
            max_epoch=2,
            distillation={"tuning": {"report": report}},
        )
        found.append((torch.load(run.folder / "last.ckpt", weights_only=True)["state_dict"], list(run.history)))
    (one, records), (other, others) = found
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [record["metrics"] for record in records] == [record["metrics"] for record in others]
