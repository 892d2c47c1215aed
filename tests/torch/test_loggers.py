"""Runs as TensorBoard, MLflow, Weights & Biases and Comet have them afterwards, all without a network."""

from __future__ import annotations

import json
import os
import socket
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from kdhooks import Distillation
from kdhooks.errors import ConfigError, MissingPackageError
from kdhooks.runs import RunLogger, read_run
from tests.torch.training_runs import batches, distillation, equal, settings, student_model

KEYS = ("COMET_API_KEY", "WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Nothing may reach for another machine, and no key of this one is found."""
    asked: list[Any] = []
    connect = socket.socket.connect

    def watched(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            asked.append(address)
            raise OSError("no network in this test")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", watched)
    for key in KEYS:
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    yield
    assert asked == []


def run(folder: Path, *, epochs: int = 2, resume: bool = False, tensorboard: Any = False, **loggers: Any) -> Any:
    conf = settings(folder, end_epoch=epochs)
    conf["tuning"] |= {"tensorboard": tensorboard, "loggers": loggers or None, "report": False}
    conf["tuning"]["workspace"]["resume"] = resume
    distiller = distillation(conf, batches(60, size=2))
    distiller.eval_dataloader = batches(1, seed=4)
    return distiller


def scalars(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "tensorboard"))
    events.Reload()
    return events


def test_tensorboard_gets_components_rate_metrics_and_configuration(tmp_path: Path) -> None:
    distiller = run(tmp_path, tensorboard="auto")
    distiller.fit()
    events = scalars(tmp_path)
    tags = sorted(events.Tags()["scalars"])
    assert tags == ["evaluation/top1", "learning_rate", "loss/CE", "loss/KL", "loss/total"]
    assert [event.step for event in events.Scalars("loss/total")] == [49, 59, 99, 119]
    assert [event.step for event in events.Scalars("evaluation/top1")] == [60, 120]
    steps = read_run(tmp_path)["steps"]
    assert [event.value for event in events.Scalars("loss/KL")] == pytest.approx(steps["losses"]["KL"])
    assert events.Scalars("evaluation/top1")[0].value == pytest.approx(distiller.history[0]["metrics"]["top1"])
    (text,) = events.Tensors("configuration")
    assert b"end_epoch: 2" in text.tensor_proto.string_val[0]


def test_tensorboard_of_a_resumed_run_has_every_step_once(tmp_path: Path) -> None:
    run(tmp_path, epochs=1, tensorboard=True).fit()
    run(tmp_path, epochs=2, resume=True, tensorboard=True).fit()
    assert [event.step for event in scalars(tmp_path).Scalars("loss/CE")] == [49, 59, 99, 119]


def test_event_files_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    run(tmp_path / "auto", epochs=1, tensorboard="auto").fit()
    assert not (tmp_path / "auto" / "tensorboard").exists()
    distiller = run(tmp_path / "true", epochs=1, tensorboard=True)
    with pytest.raises(MissingPackageError) as caught:
        distiller.fit()
    assert str(caught.value) == "tuning.tensorboard needs the package 'tensorboard': pip install 'kdhooks[report]'"
    assert equal(distiller.student_model, student_model()) and not (tmp_path / "true").exists()


def test_a_bare_loop_writes_event_files_where_it_asks_for_them(tmp_path: Path) -> None:
    for asked in ("auto", True):
        distiller = run(tmp_path / str(asked), tensorboard=asked)
        with distiller:
            x, y = batches(1)[0]
            output = distiller.student_model(x)
            distiller.on_after_compute_loss(x, output, torch.nn.functional.cross_entropy(output, y))
            distiller.on_epoch_end()
        assert (tmp_path / str(asked) / "tensorboard").exists() == (asked is True)


def test_mlflow_gets_a_run_that_a_resumed_one_goes_on_with(tmp_path: Path) -> None:
    from mlflow.tracking import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    for epochs in (1, 2):
        distiller = run(tmp_path, epochs=epochs, resume=epochs > 1, mlflow={"tracking_uri": uri, "experiment": "tiny"})
        distiller.fit()
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("tiny")
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.status == "FINISHED" and found.info.run_name == "distillation"
    assert found.info.run_id == read_run(tmp_path)["resume"]["loggers"]["mlflow"]["run_id"]
    assert found.data.params["distillation.train.criterion.KnowledgeDistillationLoss.temperature"] == "2.0"
    assert found.data.tags["kdhooks.configuration"].startswith("distillation:\n  train:\n    end_epoch: 1\n")
    history = client.get_metric_history(found.info.run_id, "loss/total")
    assert [metric.step for metric in history] == [49, 59, 99, 119]
    top1 = client.get_metric_history(found.info.run_id, "evaluation/top1")
    assert [metric.value for metric in top1] == [record["metrics"]["top1"] for record in distiller.history]
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_wandb_writes_a_run_offline(tmp_path: Path) -> None:
    distiller = run(tmp_path, wandb={"project": "tiny", "mode": "offline"})
    distiller.fit()
    (folder,) = (tmp_path / "wandb").glob("offline-run-*")
    identity = read_run(tmp_path)["resume"]["loggers"]["wandb"]["id"]
    words = {b"loss/KL", b"evaluation/top1", b"learning_rate", b"distillation.train.end_epoch", b"tiny"}
    end = time.monotonic() + 30
    while missing := {word for word in words if word not in (folder / f"run-{identity}.wandb").read_bytes()}:
        assert time.monotonic() < end, missing
        time.sleep(0.01)  # the service of wandb writes the file after `finish` has returned
    assert not list(folder.rglob("requirements.txt")) and not list(folder.rglob("wandb-metadata.json"))


def test_comet_writes_an_experiment_into_a_folder(tmp_path: Path) -> None:
    distiller = run(tmp_path, comet={"project": "tiny", "workspace": "me", "offline": str(tmp_path / "comet")})
    distiller.fit()
    (archive,) = (tmp_path / "comet").glob("*.zip")
    assert archive.stem == read_run(tmp_path)["resume"]["loggers"]["comet"]["experiment_key"]
    with zipfile.ZipFile(archive) as content:
        lines = content.read("messages.json").decode().splitlines()
        assert sorted(content.namelist()) == ["experiment.json", "messages.json"]
    told = [json.loads(line)["payload"] for line in lines]
    metrics = [one["metric"] for one in told if one.get("metric")]
    assert [one["step"] for one in metrics if one["metricName"] == "loss/KL"] == [49, 59, 99, 119]
    assert [one["epoch"] for one in metrics if one["metricName"] == "evaluation/top1"] == [0, 1]


@pytest.mark.parametrize(
    ("loggers", "message", "advice"),
    [
        (
            {"comet": {"project": "tiny"}},
            "tuning.loggers.comet: Comet is asked for without a key",
            "Set COMET_API_KEY, or write api_key into ~/.comet.config, or name a folder with offline. "
            "No key is read from a configuration.",
        ),
        (
            {"wandb": {"project": "tiny"}},
            "tuning.loggers.wandb: Weights & Biases is asked for without a key",
            "Run `wandb login` or set WANDB_API_KEY, or write mode: offline. No key is read from a configuration.",
        ),
        (
            {"mlflow": {"tracking_uri": "gopher://here"}},
            "tuning.loggers.mlflow.tracking_uri: MLflow does not take this address: ",
            "Write a database, as in sqlite:///mlflow.db, or the address of a server that runs.",
        ),
    ],
)
def test_a_logger_that_cannot_work_is_an_error_before_training(
    tmp_path: Path, loggers: Any, message: str, advice: str
) -> None:
    distiller = run(tmp_path / "run", **loggers)
    with pytest.raises(ConfigError) as caught:
        distiller.fit()
    first, last = str(caught.value).splitlines()[0], str(caught.value).splitlines()[-1]
    assert first.startswith(f"<dict>: {message}") and last == f"  {advice}"
    assert equal(distiller.student_model, student_model()) and not (tmp_path / "run").exists()
    assert not any(module._forward_hooks for module in distiller.teacher_model.modules())


def test_a_place_that_mlflow_cannot_write_is_an_error_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    distiller = run(tmp_path / "run", mlflow={"tracking_uri": f"sqlite:///{tmp_path}/file/x.db"})
    with pytest.raises(ConfigError, match=r"tuning\.loggers\.mlflow.*: MLflow "):
        distiller.fit()
    assert equal(distiller.student_model, student_model())


def test_a_logger_of_the_users_own_is_told_and_may_fail(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Own(RunLogger):
        name = "own"

        def __init__(self, fails: bool) -> None:
            self.fails, self.seen = fails, list[Any]()

        def scalars(self, values: Any, step: int) -> None:
            self.seen.append((step, sorted(values)))
            if self.fails:
                raise ConnectionError("the server has gone")

        def end(self, status: str) -> None:
            self.seen.append(status)

    one, other = Own(True), Own(False)
    distiller: Distillation = run(tmp_path, epochs=1)
    distiller.loggers += [one, other]
    with caplog.at_level("WARNING", logger="kdhooks"):
        distiller.fit()
    names = ["learning_rate", "loss/CE", "loss/KL", "loss/total"]
    assert one.seen == [(49, names)] and other.seen == [(49, names), (59, names), "finished"]
    assert [record.getMessage().partition(" (")[0] for record in caplog.records] == [
        "the logger own failed and gets nothing more of this run, which goes on: ConnectionError: the server has gone"
    ]
