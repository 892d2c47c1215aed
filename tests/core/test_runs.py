"""The record of a run: its points, its file, and what is said of a file that is not one."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from kdhooks.config import DistillationConf
from kdhooks.errors import DataError
from kdhooks.runs import RunRecord, read_run
from kdhooks.runs.curves import MOST, Curves
from kdhooks.runs.files import plain, write_run


def read(count: int, every: int = 50, curves: Curves | None = None, first: int = 0) -> Curves:
    curves = Curves() if curves is None else curves
    for number in range(first, count):
        curves.add(number * every, {"CE": number / 7, "total": number / 3}, 0.1)
    return curves


@pytest.mark.parametrize("count", [1, 1_998, 1_999, 2_000, 2_001, 5_000, 40_000])
def test_points_are_bounded_even_and_reach_both_ends(count: int) -> None:
    columns = read(count).to_dict()
    steps = columns["step"]
    assert len(steps) <= MOST and len(steps) > min(count - 1, MOST // 2 - 2)
    assert steps[0] == 0 and steps[-1] == (count - 1) * 50
    gaps = {later - sooner for sooner, later in itertools.pairwise(steps[:-1])}  # the last one is where the run ends
    assert len(gaps) <= 1 and (count <= 1_999) == (gaps <= {50})
    assert columns["losses"]["CE"] == [float(f"{step / 50 / 7:.9g}") for step in steps]


@pytest.mark.parametrize(("stopped", "count"), [(3, 10), (1_999, 2_300), (2_500, 9_000)])
def test_points_of_a_resumed_run_are_those_of_one_that_was_not_stopped(stopped: int, count: int) -> None:
    former = json.loads(json.dumps(read(stopped).to_dict()))
    resumed = read(count, curves=Curves.from_dict(former, before=stopped * 50), first=stopped)
    assert resumed.to_dict() == read(count).to_dict()


def test_points_behind_the_checkpoint_are_left_out() -> None:
    curves = Curves.from_dict(read(10).to_dict(), before=301)
    assert curves.to_dict()["step"] == [0, 50, 100, 150, 200, 250, 300]
    assert read(10, curves=curves, first=7).to_dict() == read(10).to_dict()


def test_a_component_that_comes_later_has_gaps_before() -> None:
    curves = Curves()
    curves.add(0, {"CE": 1.0, "total": 1.0}, None)
    curves.add(50, {"CE": float("nan"), "KL": 2.0, "total": 3.0}, 0.5)
    curves.add(50, {"CE": 0.5, "KL": 2.0, "total": 2.5}, 0.5)  # read once more
    columns = curves.to_dict()
    assert columns["losses"] == {"CE": [1.0, 0.5], "KL": [None, 2.0], "total": [1.0, 2.5]}
    assert columns["learning_rate"] == [None, 0.5] and list(columns["losses"])[-1] == "total"


def record(folder: Path) -> RunRecord:
    facts: dict[str, Any] = {"name": "tiny", "framework": "pytorch", "device": "cpu"}
    return RunRecord(folder, configuration="model: {name: tiny}\n", seed=5, **facts)


HISTORY = [{"epoch": 0, "losses": {"CE": float("inf")}, "metrics": {"top1": 0.5}, "seconds": 1.0}]


def test_what_is_written_is_read(tmp_path: Path) -> None:
    made = record(tmp_path / "deep" / "run")
    made.add(49, {"CE": 0.5, "total": 0.5}, 0.1)
    made.put("similarity", None, "there are no evaluation data")
    made.write(HISTORY)
    found = read_run(tmp_path / "deep" / "run")
    assert found == read_run(tmp_path / "deep" / "run" / "run.json")
    assert found["status"] == "running" and found["ended"] is None
    assert found["history"] == [{"epoch": 0, "losses": {"CE": None}, "metrics": {"top1": 0.5}, "seconds": 1.0}]
    assert found["steps"]["step"] == [49] and found["seed"] == 5 and found["machine"]["cores"] >= 1
    assert found["missing"] == {
        "similarity": "there are no evaluation data",
        **dict.fromkeys(("ledger", "confusion", "models", "disagreements"), "the run has not ended"),
    }
    made.write(HISTORY, "stopped")
    found = read_run(tmp_path / "deep" / "run")
    assert found["ended"] is not None and found["missing"]["confusion"] == "the run was stopped"
    assert os.listdir(tmp_path / "deep" / "run") == ["run.json"]


def test_a_resumed_record_goes_on(tmp_path: Path) -> None:
    first = record(tmp_path)
    read(10, curves=first._curves)
    first.unfinished["loggers"] = {"mlflow": {"run_id": "x"}}
    first.write(HISTORY)
    written = read_run(tmp_path)
    again = record(tmp_path)
    again.continues(250)
    content = plain(again.content([], "running"))
    assert content["began"] == written["began"] and content["seconds"] >= written["seconds"]
    assert content["steps"]["step"] == [0, 50, 100, 150, 200]
    assert again.unfinished == {"loggers": {"mlflow": {"run_id": "x"}}}


def test_a_folder_that_cannot_be_written_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    made = record(tmp_path / "file" / "run")
    with caplog.at_level("INFO", logger="kdhooks"):
        made.write([])
        made.write([], "finished")
    path = tmp_path / "file" / "run" / "run.json"
    assert [one.getMessage() for one in caplog.records] == [f"the record {path} can't be written: Not a directory"]


def test_a_kill_while_writing_leaves_the_former_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = record(tmp_path)
    made.write(HISTORY)
    before = (tmp_path / "run.json").read_bytes()

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        made.write([])
    assert (tmp_path / "run.json").read_bytes() == before and os.listdir(tmp_path) == ["run.json"]


def broken(**changes: Any) -> dict[str, Any]:
    steps = {"step": [], "learning_rate": [], "losses": {}}
    texts = {"name": "tiny", "framework": "pytorch", "status": "running", "configuration": ""}
    content = {"history": [], "disagreements": [], "versions": {}, "machine": {}, "steps": steps, "models": {}}
    return {key: value for key, value in {**texts, **content, "missing": {}, **changes}.items() if value != "gone"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no record of a run at {}: fit() writes one into the run's folder, tuning.workspace.path"),
        ("{", "{} is damaged, or no record of a run: it is no JSON"),
        ("[" * 100_000, "{} is damaged, or no record of a run: it is no JSON"),
        ("[]", "{} is no record of a run of kdhooks"),
        ('{"format": "kdhooks search result"}', "{} is no record of a run of kdhooks"),
        (
            '{"format": "kdhooks run", "version": 2}',
            "the record {} is of version 2, and this kdhooks reads up to version 1: update kdhooks",
        ),
        (broken(history="gone"), "the record {} is damaged: it has no 'history'"),
        (broken(models=[]), "the record {} is damaged: 'models' is no mapping"),
        (broken(status="lost"), "the record {} is damaged: its status is 'lost'"),
        (broken(history=[{"epoch": 1}]), "the record {} is damaged: 'history[0]' is no record of an epoch"),
        (broken(steps={"step": []}), "the record {} is damaged: 'steps' lacks step, learning_rate or losses"),
        (
            broken(steps={"step": [1, 2], "learning_rate": [0.1, 0.1], "losses": {"CE": [1.0]}}),
            "the record {} is damaged: 'steps.losses.CE' has 1 values for 2 steps",
        ),
    ],
)
def test_what_is_no_record_is_said(tmp_path: Path, content: Any, words: str) -> None:
    path = tmp_path / "run.json"
    if isinstance(content, dict):
        write_run(path, content)
    elif content is not None:
        path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_run(tmp_path)
    assert str(caught.value) == words.format(path)


def test_a_configuration_is_kept_as_it_was_written_without_passwords(tmp_path: Path) -> None:
    file = tmp_path / "kd.yaml"
    file.write_text("# mine\ntuning:\n  loggers: {mlflow: {tracking_uri: 'https://me:secret@host:80/x'}}\n")
    conf = DistillationConf(file)
    assert conf.to_yaml() == "# mine\ntuning:\n  loggers: {mlflow: {tracking_uri: 'https://me:***@host:80/x'}}\n"
    conf["tuning.random_seed"] = 7
    assert conf.to_yaml() == (
        "tuning:\n  loggers:\n    mlflow:\n      tracking_uri: https://me:***@host:80/x\n  random_seed: 7\n"
    )
    assert DistillationConf().to_yaml() == ""
