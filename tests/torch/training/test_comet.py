"""Comet: what it is given, and what is said where it can't be. Nothing here reaches a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdhooks import KnowledgeDistillationTraining
from kdhooks.errors import MissingPackageError, UsageError
from kdhooks.training.logs import CometInfo, read_comet_info
from tests.torch.training.setups import Accuracy, linear, loader, training


class Experiment:
    """In place of Comet's own: keeps what it is told."""

    project_name = "made up"

    def __init__(self) -> None:
        self.numbers: dict[str, list[float]] = {}
        self.parameters: dict[str, Any] = {}

    def get_key(self) -> str:
        return "k" * 32

    def log_other(self, *args: Any, **options: Any) -> None:
        return None

    flush = __internal_api__set_model_graph__ = log_other

    def __internal_api__log_parameters__(self, parameters: dict[str, Any], **options: Any) -> None:
        self.parameters.update(parameters)

    def __internal_api__log_metrics__(self, metrics: dict[str, Any], **options: Any) -> None:
        for name, value in metrics.items():
            self.numbers.setdefault(name, []).append(float(value))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What ``comet_ml.start`` was called with, and the experiment."""
    import comet_ml

    found: dict[str, Any] = {"experiment": Experiment(), "calls": 0}

    def start(**given: Any) -> Experiment:
        found.update(given, calls=found["calls"] + 1)
        experiment: Experiment = found["experiment"]
        return experiment

    monkeypatch.setattr(comet_ml, "start", start)
    monkeypatch.delenv("COMET_API_KEY", raising=False)
    return found


def info(folder: Path, text: str = "secret-key\nclothes\nus\n") -> Path:
    path = folder / "comet.txt"
    path.write_text(text, encoding="utf-8")
    return path


def run(folder: Path, **changes: Any) -> KnowledgeDistillationTraining:
    made = training(
        folder,
        val_data_loaders={"v": loader(7)},
        inference_pipeline=Accuracy(),
        log_to_comet=True,
        logging_param={"width": 8},
        **changes,
    )
    made.start_kd_training()
    return made


def test_log_to_comet_sends_components_results_and_parameters(tmp_path: Path, started: dict[str, Any]) -> None:
    made = run(tmp_path, comet_info_path=info(tmp_path))
    experiment = started["experiment"]
    assert experiment.parameters == {"width": 8}
    assert len(experiment.numbers["kd_loss"]) == 4
    assert experiment.numbers["v"] == [made.history[0]["metrics"]["v"]]
    training(tmp_path, log_to_comet=False, comet_info_path="nowhere.txt").start_kd_training()
    assert started["calls"] == 1


def test_comet_info_path_is_read_as_key_project_and_workspace(tmp_path: Path, started: dict[str, Any]) -> None:
    run(tmp_path, comet_info_path=str(info(tmp_path)))
    assert (started["api_key"], started["project"], started["workspace"]) == ("secret-key", "clothes", "us")
    assert read_comet_info(info(tmp_path, "\ufeffkey \r\n\r\n")) == CometInfo("key")
    assert "key" not in repr(CometInfo("key", "p", "w")).replace("api_key", "")


def test_comet_exp_name_is_the_experiments(tmp_path: Path, started: dict[str, Any]) -> None:
    for name in ("first", "second"):
        run(tmp_path, comet_info_path=info(tmp_path), comet_exp_name=name)
        assert started["experiment_config"].name == name


def test_the_key_may_be_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMET_API_KEY", "from-there")
    assert read_comet_info("") == CometInfo("from-there")


def test_comet_without_a_key_is_said_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COMET_API_KEY", raising=False)
    missing, empty = tmp_path / "missing.txt", info(tmp_path, "\nclothes\nus\n")
    expected = {
        "": "log_to_comet is True, and comet_info_path names no file. Write key, project and workspace into a txt "
        "file, a line each, or set COMET_API_KEY",
        str(missing): f"comet_info_path, {missing}, can't be read: No such file or directory",
        str(empty): f"the first line of {empty} must be the api key, and it is empty. The lines are api key, project "
        "name, workspace",
    }
    for path, message in expected.items():
        with pytest.raises(UsageError) as caught:
            training(tmp_path, log_to_comet=True, comet_info_path=path)
        assert str(caught.value) == f"Comet asked for without a key: {message}"
    words = info(tmp_path, "my own key\n")
    with pytest.raises(UsageError, match="it is of several words"):
        read_comet_info(words)
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UsageError, match=r"can't be read: it is no text$"):
        read_comet_info(binary)
    assert not list(tmp_path.glob("version_*"))


def test_comet_that_is_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdhooks.training.logs.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError) as caught:
        training(tmp_path, log_to_comet=True, comet_info_path=info(tmp_path), student_model=linear(1))
    assert str(caught.value) == "log_to_comet needs the package 'comet_ml': pip install 'kdhooks[comet]'"
