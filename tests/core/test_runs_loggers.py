"""Loggers that fail, are wrong, or are configured wrongly; event files as TensorBoard reads them."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from kdhooks.config import DistillationConf
from kdhooks.errors import ConfigError, MissingPackageError, UsageError
from kdhooks.runs import LoggerError, Recorder, RunFacts, RunLogger
from kdhooks.runs.loggers import Guarded, configured_loggers, guarded
from kdhooks.runs.loggers.configured import wants_event_files
from kdhooks.runs.loggers.event_files import EventFiles


class Told(RunLogger):
    """Writes down what it is told, and fails where it is asked to."""

    def __init__(self, name: str = "told", fails: str = "") -> None:
        self.name, self._fails, self.calls = name, fails, []

    def _note(self, call: str, *what: Any) -> None:
        self.calls.append((call, *what))
        if call == self._fails:
            raise OSError(f"{call} went wrong")

    def begin(self, run: RunFacts) -> None:
        self._note("begin", run.step, dict(run.former))

    def identity(self) -> dict[str, str]:
        return {"id": self.name}

    def scalars(self, values: Any, step: int) -> None:
        self._note("scalars", dict(values), step)

    def metrics(self, values: Any, *, epoch: int, step: int) -> None:
        self._note("metrics", dict(values), epoch, step)

    def end(self, status: str) -> None:
        self._note("end", status)


FACTS = RunFacts("tiny", Path("run"))


def test_a_recorder_tells_each_reading_once_and_in_order() -> None:
    told = Told()
    recorder = Recorder(None, Guarded([told]), FACTS)
    recorder.begin(10)
    recorder.begin(11)
    recorder.reading(49, {"CE": 1.0, "total": float("nan")}, 0.1)
    recorder.reading(49, {"CE": 9.0}, 0.1)
    recorder.epoch({"epoch": 3, "metrics": {"top1": 0.5}}, 60)
    recorder.end("finished")
    recorder.end("failed")
    recorder.reading(99, {"CE": 1.0}, 0.1)
    assert told.calls == [
        ("begin", 10, {}),
        ("scalars", {"loss/CE": 1.0, "learning_rate": 0.1}, 49),
        ("metrics", {"evaluation/top1": 0.5}, 3, 60),
        ("end", "finished"),
    ]


@pytest.mark.parametrize("call", ["scalars", "metrics", "end"])
def test_a_logger_that_fails_is_left_out_and_said_once(call: str, caplog: pytest.LogCaptureFixture) -> None:
    bad, good = Told("bad", call), Told("good")
    loggers = Guarded([bad, good])
    loggers.begin(FACTS, {})
    with caplog.at_level(logging.INFO, logger="kdhooks"):
        for step in (1, 2):
            loggers.scalars({"CE": 1.0}, step)
            loggers.metrics({"top1": 1.0}, epoch=0, step=step)
        loggers.end("finished")
    assert len(good.calls) == 6 and [one[0] for one in bad.calls].count(call) == 1
    (said,) = [one.getMessage() for one in caplog.records]
    assert said.startswith(
        f"the logger bad failed and gets nothing more of this run, which goes on: OSError: {call} went wrong ("
    )


def test_where_one_cannot_begin_none_does() -> None:
    good, bad = Told("good"), Told("bad", "begin")
    loggers = Guarded([good, bad])
    with pytest.raises(OSError, match="begin went wrong"):
        loggers.begin(FACTS, {"good": {"id": "former"}})
    assert good.calls == [("begin", 0, {"id": "former"}), ("end", "failed")]


def test_what_is_no_logger_is_refused() -> None:
    with pytest.raises(UsageError) as caught:
        guarded([Told(), print], ())
    assert str(caught.value) == (
        "distiller.loggers[1] is a builtin_function_or_method, which has no method begin(): derive its class from "
        "kdhooks.runs.RunLogger"
    )
    with pytest.raises(UsageError) as caught:
        guarded(Told(), ())
    assert str(caught.value) == "distiller.loggers must be a list of loggers, not Told"


def test_an_error_of_a_logger_reads_as_one_sentence() -> None:
    assert str(LoggerError("it is wrong", "Mend it.")) == "it is wrong. Mend it"
    assert str(LoggerError("it is wrong")) == "it is wrong"


YAML = """\
tuning:
  tensorboard: maybe
  loggers:
    mlflow: {tracking_url: here}
    wandb:
      mode: ofline
    comet:
      api_key: secret
    tensorbord: {}
"""


def test_wrong_loggers_are_shown_at_their_lines(tmp_path: Path) -> None:
    file = tmp_path / "kd.yaml"
    file.write_text(YAML)
    with pytest.raises(ConfigError) as caught:
        DistillationConf(file)
    assert [(one.line, one.path, one.message, one.suggestion) for one in caught.value.problems] == [
        (2, "tuning.tensorboard", "expected true, false or auto, got 'maybe'", ""),
        (4, "tuning.loggers.mlflow.tracking_url", "unknown key", "Did you mean 'tracking_uri'?"),
        (
            *(6, "tuning.loggers.wandb.mode", "expected one of 'online', 'offline', 'disabled', got 'ofline'"),
            "Did you mean 'offline'?",
        ),
        (
            *(8, "tuning.loggers.comet.api_key", "no key is read from a configuration, which others see"),
            "Remove it, and set COMET_API_KEY in the shell.",
        ),
        (9, "tuning.loggers.tensorbord", "unknown key", "Keys here: comet, mlflow, wandb"),
    ]


@pytest.mark.parametrize(("kind", "package"), [("mlflow", "mlflow"), ("wandb", "wandb"), ("comet", "comet_ml")])
def test_a_package_that_is_not_installed(kind: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    conf = DistillationConf({"tuning": {"loggers": {kind: {}}}})
    with pytest.raises(MissingPackageError) as caught:
        configured_loggers(conf, by_default=True)
    named = {"mlflow": "mlflow-skinny", "wandb": "wandb", "comet": "comet-ml"}[kind]
    assert str(caught.value) == f"tuning.loggers.{kind} needs the package {named!r}: pip install 'kdhooks[loggers]'"


@pytest.mark.parametrize(("asked", "fits"), [(False, True), ("auto", False), ("auto", True), (True, False)])
def test_event_files_are_written_where_they_can_be_shown(
    asked: Any, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wants_event_files(asked, by_default=fits) == (asked is True or (asked == "auto" and fits))
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    if asked is not True:
        assert not wants_event_files(asked, by_default=fits)
        return
    with pytest.raises(MissingPackageError) as caught:
        wants_event_files(asked, by_default=fits)
    assert str(caught.value) == "tuning.tensorboard needs the package 'tensorboard': pip install 'kdhooks[report]'"


def test_an_event_file_holds_what_tensorboard_reads(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    files = EventFiles(tmp_path)
    files.begin(RunFacts("tiny", tmp_path, configuration="a: 1", step=300))
    files.scalars({"loss/CE": 0.5}, 349)
    files.metrics({"evaluation/top1": 0.25}, epoch=1, step=350)
    (path,) = tmp_path.iterdir()
    before_the_end = path.read_bytes()
    files.end("finished")
    files.end("finished")
    assert path.read_bytes() == before_the_end
    first, start, text, *scalars = LegacyEventFileLoader(str(path)).Load()  # checks the records' checksums
    assert first.file_version == "brain.Event:2"
    assert (start.step, start.session_log.status) == (300, start.session_log.START)
    (value,) = text.summary.value
    assert (value.tag, value.metadata.plugin_data.plugin_name) == ("configuration", "text")
    assert list(value.tensor.string_val) == [b"```yaml\na: 1\n```"]
    found = [(one.step, value.tag, value.simple_value) for one in scalars for value in one.summary.value]
    assert found == [(349, "loss/CE", 0.5), (350, "evaluation/top1", 0.25)]


_ALONE = """
import sys, threading, time
from pathlib import Path
import numpy
from kdhooks.runs import RunFacts
from kdhooks.runs.loggers.event_files import EventFiles
began = time.perf_counter()
files = EventFiles(Path(sys.argv[1]))
files.begin(RunFacts("tiny", Path(sys.argv[1]), configuration="a: 1"))
files.scalars({"loss": 1.0}, 0)
loaded = [name for name in ("tensorflow", "torch") if name in sys.modules]
print(loaded, threading.active_count(), time.perf_counter() - began)
"""


def test_event_files_import_no_framework_and_start_no_thread(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _ALONE, str(tmp_path)]
    told = subprocess.run(command, capture_output=True, text=True, check=True)
    loaded, threads, seconds = told.stdout.rsplit(" ", 2)
    assert (loaded, threads, told.stderr) == ("[]", "1", "")
    assert float(seconds) < 5  # TensorFlow takes longer; on a quiet machine it is a fraction of a second
