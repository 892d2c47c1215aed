"""``kdhooks search``: a search from the command line, its report, its end by Ctrl-C, several workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdhooks.cli import main

ROOT = Path(__file__).resolve().parents[3]
MODELS = """
import time

import torch
from torch import nn


def build(arch):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, arch["width"]), nn.ReLU(), nn.Linear(arch["width"], 10))


def teacher():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def train(model):
    time.sleep(0.3)


def judge(model):
    return model[1].out_features / 100


three = 3
"""
CONF = """\
model: {name: tiny}
distillation:
  train:
    optimizer: {Adam: {learning_rate: 0.01}}
    dataloader: {batch_size: 64, dataset: digits}
auto_distillation:
  search:
    search_space: {width: [2, 4, 8]}
    search_algorithm: Grid
    metrics: [accuracy, parameters]
    max_trials: 10
  regular_distillation:
    layer_mappings: [['3']]
    loss_types: [KL]
    add_origin_loss: true
    train_steps: 5
evaluation:
  accuracy: {dataloader: {batch_size: 256, dataset: {digits: {train: false}}}}
"""
BUILDER = ("--builder", "tiny_search:build", "--teacher", "tiny_search:teacher")
QUICK = (*BUILDER, "--train", "tiny_search:train", "--eval", "tiny_search:judge")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with models and a configuration, and a module path that is put back."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "tiny_search", raising=False)
    Path("tiny_search.py").write_text(MODELS)
    Path("auto.yaml").write_text(CONF)
    return tmp_path


def output(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["search", *words])
    return (code, *capsys.readouterr())


def test_a_search_a_line_a_candidate_and_the_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = output(capsys, "auto.yaml", *BUILDER)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == [f"candidate {n} (width {2 * 2**n})" for n in range(3)]
    assert lines[3] == "" and lines[4].startswith("tiny: Grid, seed 42; 3 candidates in ")
    assert lines[-1] == "report: .kdhooks/tiny/report.html"
    assert lines[-2].startswith("weights of the best: .kdhooks/tiny/weights/")
    assert Path(lines[-2].rpartition(": ")[2]).is_file() and Path(".kdhooks/tiny/report.html").is_file()
    result = json.loads(Path(".kdhooks/tiny/result.json").read_text())
    assert len(result["candidates"]) == 3

    # the report of the study that is there trains nothing
    Path(".kdhooks/tiny/report.html").unlink()
    code, again, err = output(capsys, "auto.yaml", "--report")
    assert (code, err) == (0, "")
    assert again.splitlines() == lines[3:]
    assert Path(".kdhooks/tiny/report.html").is_file()


def test_options_stand_above_the_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--trials", "2", "--storage", "sqlite:///one.db", "--study", "mine", "--out", "runs")
    code, out, err = output(capsys, "auto.yaml", *QUICK, *options, "--set", "auto_distillation.search.seed=3")
    assert (code, err) == (0, "")
    assert Path("one.db").is_file() and Path("runs/mine/report.html").is_file()
    assert "mine: Grid, seed 3; 2 candidates in " in out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ((), "kdhooks search: --builder is missing: name the function that makes a model of an architecture\n"),
        (
            ("--builder", "tiny_search"),
            "kdhooks search: 'tiny_search' names no function: write package.module:function, as in my_search:build\n",
        ),
        (("--builder", "tiny_search:bild"), "kdhooks search: tiny_search has no 'bild'. Did you mean 'build'?\n"),
        (
            ("--builder", "tiny_search:build", "--eval", "tiny_search:three"),
            "kdhooks search: --eval tiny_search:three is int, which can't be called\n",
        ),
        (
            ("--report",),
            "kdhooks search: the study 'tiny' of the folder .kdhooks/tiny has no candidate yet, so there is nothing to "
            "show\n",
        ),
        (
            ("--report", "--storage", "memory"),
            "kdhooks search: the study 'tiny' of that storage has no candidate yet, so there is nothing to show\n",
        ),
    ],
)
def test_mistakes(words: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert output(capsys, "auto.yaml", *words) == (2, "", text)


def test_a_file_without_the_section(capsys: pytest.CaptureFixture[str]) -> None:
    Path("kd.yaml").write_text("model: {name: tiny}\n")
    assert output(capsys, "kd.yaml", *BUILDER) == (
        2,
        "",
        "kd.yaml:1:1: there is no section auto_distillation\n"
        "  1 | model: {name: tiny}\n"
        "    | ^^^^^^^^^^^^^^^^^^^\n"
        "  Write auto_distillation: {search: ...}.\n",
    )


def start(*words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "kdhooks.cli", "search", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
    )


def test_ctrl_c_says_how_to_go_on(folder: Path) -> None:
    program = start("auto.yaml", *QUICK)
    assert program.stdout is not None
    assert program.stdout.readline().startswith("candidate 0 (width 2): ")
    time.sleep(0.1)
    program.send_signal(signal.SIGINT)
    _, told = program.communicate(timeout=60)
    assert program.returncode == 130
    assert told == (
        "kdhooks search: interrupted; 1 candidate is recorded in the study 'tiny', and the same command goes on\n"
    )
    assert main(["search", "auto.yaml", *QUICK]) == 0
    assert len(json.loads(Path(".kdhooks/tiny/result.json").read_text())["candidates"]) == 3


def test_two_workers_share_a_study(folder: Path) -> None:
    programs = [start("auto.yaml", *QUICK, "--storage", "sqlite:///shared.db") for _ in range(2)]
    told = [program.communicate(timeout=120) for program in programs]
    assert [program.returncode for program in programs] == [0, 0], told
    candidates = json.loads(Path(".kdhooks/tiny/result.json").read_text())["candidates"]
    assert sorted(one["arch"]["width"] for one in candidates) == [2, 4, 8]
    lines = [line for out, _ in told for line in out.splitlines() if line.startswith("candidate ")]
    assert sorted(line.split(":")[0] for line in lines) == [f"candidate {n} (width {2 * 2**n})" for n in range(3)]
